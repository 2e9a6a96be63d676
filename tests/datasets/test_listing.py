"""Two processes that see other files: refused by all, with the first difference. Caches: one process decides for all."""

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from places import REPO
from programs import python_on_ranks

from mmadclr.datasets import listing

TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
NAMES = [f'{label}/{number}.png' for label in 'ab' for number in range(4)]


def write(folder: Path, names=NAMES) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (20, 20)).save(folder / name)


CASES = {
    'same': lambda folder: [os.utime(path, (1, 1)) for path in folder.rglob('*')],
    'more': lambda folder: write(folder, ['a/9.png']),
    'fewer': lambda folder: (folder / 'b/3.png').unlink(),
    'renamed': lambda folder: (folder / 'b/2.png').rename(os.fsdecode(os.fsencode(folder) + b'/b/2\xe9.png')),
    'list': lambda folder: (folder / 'list.txt').write_text('a/0.png 0\nb/1.png 0\n'),
    'missing': shutil.rmtree,
    'class folders': lambda folder: (folder / 'a/1.png').unlink(),
}

SHARED = {
    'whole': lambda folder: None,
    'full': lambda folder: None,
    'unseen': lambda folder: None,
    'gone': lambda folder: (folder / 'b/3.png').unlink(),
    'other folder': lambda folder: write(folder, ['c/0.png']),
    'other list': CASES['list'],
}


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    """By case, what came of it on rank 0 and on rank 1, whose folder was changed."""
    root = tmp_path_factory.mktemp('listing')
    for rank in (0, 1):
        for case in CASES | SHARED:
            write(root / f'rank{rank}' / case)
        for case in ('list', 'other list'):
            (root / f'rank{rank}' / case / 'list.txt').write_text('a/0.png 0\nb/1.png 1\n')
    for case, change in (CASES | SHARED).items():
        change(root / 'rank1' / case)
    (root / 'cases.json').write_text(json.dumps(list(CASES)))
    (root / 'shared.json').write_text(json.dumps(list(SHARED)))
    python_on_ranks(2, 'tests/datasets/listing_runs.py', root, TMPDIR=str(tmp_path_factory.mktemp('temporary')))
    found = [json.loads((root / f'rank{rank}.json').read_text()) for rank in (0, 1)]
    assert not list(root.rglob('listing-*'))  # removed in the end
    return {case: tuple(results[case] for results in found) for case in found[0]}


def test_the_same_names_are_the_same_images_whatever_their_times(outcomes):
    assert outcomes['same'] == ('8 images', '8 images')


@pytest.mark.parametrize(
    ('case', 'place', 'first', 'second'),
    [
        ('more', 4, 'b/0.png with label 1 on rank 0 (HOST, 8 images)', 'a/9.png with label 0 on rank 1 (HOST, 9 images)'),
        ('fewer', 7, 'b/3.png with label 1 on rank 0 (HOST, 8 images)', 'no more image on rank 1 (HOST, 7 images)'),
        ('renamed', 6, 'b/2.png with label 1 on rank 0', 'b/2\\xe9.png with label 1 on rank 1'),
        ('list', 1, 'b/1.png with label 1 on rank 0', 'b/1.png with label 0 on rank 1'),
        ('class folders', 1, 'class folders/a/1.png with label 0 on rank 0', 'class folders/a/2.png with label 0 on rank 1'),
    ],
)
def test_the_first_difference_is_named_on_all_processes(outcomes, case, place, first, second):
    for message in outcomes[case]:
        assert message.startswith(f'ValueError: {case}: the processes list different images. The first difference is image')
        host = message.partition('on rank 0 (')[2].partition(',')[0]
        for part in (f'is image {place}: ', first, f' but {second}'):
            assert part.replace('HOST', host) in message


class OwnSource:
    """A source of a user's own, which has a list where sources of ours have an array."""

    labels = shard_of = None

    def __init__(self, names):
        self._names = self._paths = names

    def __len__(self):
        return len(self._names)

    def key(self, index):
        return self._names[index].encode()


class OwnDataset:
    data_root = 'mine'

    def __init__(self, names):
        self.source = OwnSource(names)

    def __len__(self):
        return len(self.source)


@pytest.mark.parametrize('second', [['a', 'b'], ['a', 'c']])
def test_sources_of_ones_own_are_compared_line_by_line(monkeypatch, second):
    """Two threads stand for two processes."""
    barrier, sent = threading.Barrier(2), {}

    def all_gather_object(value):
        sent[rank.number] = value
        barrier.wait(10)
        values = [sent[0], sent[1]]
        barrier.wait(10)
        return values

    def check(number, names):
        rank.number = number
        try:
            listing.check_same_images(OwnDataset(names))
        except ValueError as error:
            return str(error)
        return ''

    rank = threading.local()
    monkeypatch.setattr(listing.dist, 'all_gather_object', all_gather_object)
    with ThreadPoolExecutor(2) as threads:
        messages = list(threads.map(check, (0, 1), (['a', 'b'], second)))
    if second == ['a', 'b']:
        assert messages == ['', '']
    else:
        assert messages[0] == messages[1]
        assert 'mine: the processes list different images. The first difference is image 1: b on rank 0' in messages[0]


def test_a_folder_that_one_process_does_not_see_ends_all(outcomes):
    missing = 'FileNotFoundError: data_root missing does not exist; set data_root of the dataset in the config'
    assert outcomes['missing'] == (f'OtherProcessError: process 1 failed: {missing}', missing)


def test_one_process_lists_and_the_other_maps_its_files(outcomes):
    first, second = outcomes['shared whole']
    assert first['names'] == second['names'] == sorted(NAMES)
    assert first['labels'] == second['labels'] == [0] * 4 + [1] * 4
    assert first['file'] == second['file']
    assert '/work/listing/listing-' in first['file']
    assert (first['looks'], second['looks']) == (4, 1)  # root, a, b and the root once more; the root


def test_what_is_mapped_is_mapped_again_where_it_is_unpickled(outcomes):
    for found in outcomes['shared whole']:
        assert found['again'] == [found['labels'], found['file']]


def test_a_full_disk_is_no_error_all_list_by_themselves(outcomes):
    for found in outcomes['shared full']:
        assert found['names'] == sorted(NAMES)
        assert (found['file'], found['again'][1]) == (None, None)
    assert outcomes['shared full'][1]['looks'] == 3


def test_a_node_that_does_not_see_the_folder_lists_for_itself(outcomes):
    first, second = outcomes['shared unseen']
    assert first['names'] == second['names'] == sorted(NAMES)
    assert '/unseen/listing/' in first['file']
    assert '/unseen/' not in second['file']
    assert second['looks'] == 4


@pytest.mark.parametrize(
    ('case', 'said'),
    [
        ('gone', 'b/3.png is missing on rank 1 ('),
        ('other folder', 'The first difference is image 8: no more image on rank 0 ('),
        ('other list', 'The first difference is image 1: b/1.png with label 1 on rank 0 ('),
    ],
)
def test_a_process_that_sees_other_files_than_were_listed_ends_all(outcomes, case, said):
    for found in outcomes[f'shared {case}']:
        assert found['error'].startswith('ValueError: ')
        assert said in found['error']


def test_one_process_decides_for_all_whether_features_are_cached(outcomes):
    assert outcomes['cache late'] == (['written', 'read'],) * 2
    assert outcomes['cache gone'] == (['read'],) * 2
    (message,), other = outcomes['cache other']
    assert 'is not a feature cache' in message
    assert other == [message]


@pytest.mark.slow
def test_a_run_of_two_processes_that_see_other_folders_is_refused(tmp_path):
    """The first epoch would go through other images on each, and no one would know."""
    for rank in (0, 1):
        write(tmp_path / f'rank{rank}', [f'a/{number + rank}.png' for number in range(20)])
    config = tmp_path / 'config.py'
    config.write_text(f"""_base_ = ['{REPO}/configs/demo/dino_vittiny_shapes.py']
train_dataloader = dict(batch_size=4, num_workers=0, dataset=dict(_delete_=True, type='ImageDataset',
    data_root='{tmp_path}/rank{{{{$RANK:0}}}}', transform=dict(type='MultiCrop', global_size=32, local_size=16)))
val_dataloader = None
val_cfg = None
val_evaluator = None
""")
    environment = os.environ | dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PYTHONWARNINGS='ignore')
    command = [*TORCHRUN, 'tools/train.py', str(config), '--launcher', 'pytorch', '--work-dir', str(tmp_path / 'work')]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert 'the processes list different images. The first difference is image 0: a/0.png on rank 0' in output
    assert not list((tmp_path / 'work').glob('*.pth'))
