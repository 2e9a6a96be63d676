"""Golden tests judge any folder of the known form: they pass on one of other sizes, and notice what is wrong in one."""

import json
import re

import numpy as np
import pytest
from golden_files import GoldenArrays
from golden_folder import write_golden_folder
from places import GOLDEN
from programs import python

# What no test can compare: words for readers.
WORDS = {'dino_augment: source', 'dino_augment: notes'}


def judge(folder, *arguments):
    """The golden tests on a folder: their exit code, counts of outcomes, and what they printed."""
    command = ['-m', 'pytest', '-q', '--no-header', '-p', 'no:cacheprovider', '-m', 'golden', '--golden', folder]
    done = python(*command, *(arguments or ['tests']), check=False, timeout=1200)
    summary = done.stdout.splitlines()[-1] if done.stdout else done.stderr
    counts = {outcome: int(number) for number, outcome in re.findall(r'(\d+) (passed|failed|skipped|error)', summary)}
    return done.returncode, counts, done.stdout + done.stderr


@pytest.fixture(scope='module')
def other_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('golden') / 'other'
    write_golden_folder(folder)
    return folder


def unread_keys(text):
    section = text.split('golden keys that no test has read')[1].splitlines()[1:]
    return set(section[: next((i for i, line in enumerate(section) if not re.match(r'\S+: \S', line)), None)])


@pytest.mark.slow
@pytest.mark.parametrize('which', ['published', 'other'])
def test_golden_tests_pass_and_leave_no_key_unread(other_folder, which):
    folder = GOLDEN if which == 'published' else other_folder
    # The other folder has no numbers of dense evaluation: their tests are on the published ones alone.
    left_out = [] if which == 'published' else ['--ignore=tests/evaluation/dense']
    code, counts, text = judge(folder, 'tests', '--golden-unread', *left_out)
    assert code == 0, text[-5000:]
    assert counts['passed'] >= 190
    assert counts.get('skipped', 0) <= 2, text[-5000:]  # those that need packages which may be absent
    assert unread_keys(text) == (WORDS if which == 'published' else set())


def form(folder):
    """Files and keys of a folder, without what depends on sizes, numbers of layers, steps and neighbors, and dense
    evaluation."""
    found = set()
    for path in folder.rglob('*'):
        name = str(path.relative_to(folder))
        if name.startswith('dense_eval/'):
            continue
        if path.suffix == '.npz':
            with np.load(path, allow_pickle=False) as arrays:
                found |= {f'{name}: {re.sub(r"[0-9]+", "#", key)}' for key in arrays}
        elif path.suffix == '.json':
            found |= {f'{name}: {key}' for key in json.loads(path.read_text())}
        elif path.suffix == '.pth':
            found.add(name)
    return found


def test_the_other_folder_has_the_form_of_the_published_one(other_folder):
    words = {word.replace(': ', '.json: ') for word in WORDS}
    assert form(GOLDEN) - form(other_folder) == words
    assert form(other_folder) <= form(GOLDEN)


def test_no_size_of_the_other_folder_is_that_of_the_published_one(other_folder):
    """Else a test that knows the sizes of the published files would pass on both."""
    kept = {'layer_norm_eps', 'kernel', 'freeze_last_layer', 'warmup_epochs'}  # as in all published runs
    for path in sorted(GOLDEN.glob('*.npz')):
        settings = []
        for folder in (GOLDEN, other_folder):
            with np.load(folder / path.name, allow_pickle=False) as arrays:
                settings.append(dict(GoldenArrays(arrays).config))
        same = {key for key, value in settings[0].items() if settings[1][key] == value and not isinstance(value, bool)}
        assert same <= kept, path.name


NOTICING = {
    'dino_schedules': 'tests/engine/test_schedules.py',
    'dino_head': 'tests/models/test_dino_head.py',
    'dino_loss': 'tests/models/test_self_distillation_loss.py',
}


def test_wrong_numbers_are_noticed_by_every_test_that_compares_them(other_folder, tmp_path):
    for file in NOTICING:
        with np.load(other_folder / f'{file}.npz', allow_pickle=False) as arrays:
            given = re.compile(r'config/|.*params/|.*epoch')
            changed = {key: x if given.match(key) else x + 0.02 * x.max() if x.size > 1 else x for key, x in arrays.items()}
        np.savez(tmp_path / f'{file}.npz', **changed)
    code, counts, text = judge(tmp_path, *NOTICING.values())
    assert code == 1, text[-3000:]
    assert counts['failed'] >= 12
    assert 'passed' not in counts


def test_a_folder_without_a_file_skips_its_tests_and_says_so(tmp_path):
    code, counts, text = judge(tmp_path, 'tests/engine/test_schedules.py', 'tests/models/test_dino_head.py')
    assert (code, set(counts)) == (0, {'skipped'})
    assert f'no dino_schedules.npz in {tmp_path}' in text
    assert f'no dino_head.npz in {tmp_path}' in text


def test_a_folder_that_is_not_there_is_explained(tmp_path):
    code, _, text = judge(tmp_path / 'nowhere', 'tests/engine/test_schedules.py')
    assert code == 4
    assert f'--golden {tmp_path}/nowhere: no such folder' in text
