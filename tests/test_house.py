"""What CONTRIBUTING.md promises about files that only run elsewhere: they are valid and name what exists."""

import re

import pytest
import yaml
from places import REPO

WORKFLOWS = sorted((REPO / '.github' / 'workflows').glob('*.yml'))


@pytest.mark.parametrize('path', WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_targets_of_the_makefile(path):
    targets = set(re.findall(r'^([\w-]+):', (REPO / 'Makefile').read_text(), re.MULTILINE))
    jobs = yaml.safe_load(path.read_text())['jobs'].values()
    called = [name for job in jobs for step in job['steps'] for name in re.findall(r'^make ([\w-]+)', step.get('run', ''))]
    assert called
    assert set(called) <= targets


def test_hooks_before_commits_are_of_the_version_that_checks():
    hooks = yaml.safe_load((REPO / '.pre-commit-config.yaml').read_text())['repos']
    ruff = next(repo['rev'] for repo in hooks if 'ruff' in repo['repo'])
    assert f'\nruff=={ruff.removeprefix("v")}\n' in (REPO / 'requirements' / 'constraints.txt').read_text()


def test_files_that_contributing_names_exist():
    text = (REPO / 'CONTRIBUTING.md').read_text()
    names = [*re.findall(r'\]\(([^)]+)\)', text), *re.findall(r'`((?:tests|tools|docs|mmadclr)/[\w/.]+\.\w+)`', text)]
    assert len(names) > 5
    assert [name for name in names if not (REPO / name).exists()] == []
