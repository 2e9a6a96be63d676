"""What CONTRIBUTING.md promises about files that only run elsewhere: they are valid and name what exists."""

import re
import tomllib

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


def test_what_the_type_checker_is_to_overlook_has_a_code_and_a_reason():
    lines = [line for path in (REPO / 'mmadclr').rglob('*.py') for line in path.read_text().splitlines()]
    ignored = [line.strip() for line in lines if 'type: ignore' in line]
    assert len(ignored) <= 15
    assert [line for line in ignored if not re.search(r'# type: ignore\[[a-z, -]+\]  # \w', line)] == []
    assert not any('mmadclr' in module for module in overlooked_modules())


def overlooked_modules():
    settings = tomllib.loads((REPO / 'pyproject.toml').read_text())['tool']['mypy']
    return [module for override in settings['overrides'] for module in override['module']]
