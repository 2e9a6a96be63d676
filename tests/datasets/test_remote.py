"""Shards of a store are read like local ones; what goes wrong on the way is tried again, or said."""

import errno
import json
import multiprocessing
import os
import sys
import time

import pytest
import torch
from places import REPO
from programs import python
from shards import image_bytes, write_shards
from torch.utils.data import DataLoader
from web_store import running

from mmadclr.config.check import ConfigError
from mmadclr.config.loading import check_secrets
from mmadclr.datasets import ImageDataset, collate_samples, remote, shard_cache
from mmadclr.datasets.packing import pack_shards
from mmadclr.datasets.remote import StoreError, join
from mmadclr.datasets.shard_cache import RemoteShards, copies_folder, size_limit
from mmadclr.datasets.sources import TarSource
from mmadclr.urls import has_secrets, shown

pytest.importorskip('aiohttp')
CROPS = dict(type='MultiCrop', global_size=16, local_size=8, query_size=8, num_local=2, num_query=2)
SMALL = dict(type='MultiCrop', global_size=32, local_size=16, query_size=8, num_local=2, num_query=4)
RANGE = 'train-{000..002}.tar'


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(remote, 'PAUSE', 0.01)
    monkeypatch.setattr(shard_cache, 'CHUNK', 4096)


@pytest.fixture
def store(tmp_path):
    write_shards(tmp_path / 'shards')
    with running() as store:
        for path in (tmp_path / 'shards').iterdir():
            store.files[f'/data/{path.name}'] = path.read_bytes()
        yield store


def copies():
    return sorted(path.name.split('-', 2)[2] for path in copies_folder().iterdir())


def test_samples_are_those_of_the_same_local_shards(store, tmp_path):
    store.files['/data/classes.txt'] = b'ant\nbee\ncat\n'
    (tmp_path / 'shards' / 'classes.txt').write_bytes(b'ant\nbee\ncat\n')
    far = ImageDataset(f'{store.url}/data', CROPS, shards=RANGE, with_label=True)
    near = ImageDataset(tmp_path / 'shards', CROPS, shards=RANGE, with_label=True)
    assert far.labels.tolist() == near.labels.tolist()
    assert far.metainfo == near.metainfo == dict(classes=('ant', 'bee', 'cat'))
    assert [far.source.key(index) for index in range(12)] == [near.source.key(index) for index in range(12)]
    assert far.source.name(5) == f'{store.url}/data/train-001.tar: 0005.jpg'
    asked = len(store.requests)
    for index in range(12):
        for name, value in far[index].items():
            assert torch.equal(value, near[index][name]) if torch.is_tensor(value) else value == near[index][name]
    assert len(store.requests) == asked  # all is in the cache
    ImageDataset(f'{store.url}/data', CROPS, shards=RANGE)
    assert {method for method, *_ in store.requests[asked:]} == {'HEAD'}  # the index, too


def test_workers_fetch_for_themselves(store):
    dataset = ImageDataset(f'{store.url}/data', CROPS, shards=RANGE)
    for path in copies_folder().iterdir():
        path.unlink()
    dataset = ImageDataset(f'{store.url}/data', CROPS, shards=RANGE)  # its event loop runs before the fork
    before = len(store.gets('.tar'))
    loader = DataLoader(dataset, 2, num_workers=2, collate_fn=collate_samples, timeout=60)
    assert [sample['unreadable'] for sample in loader] == [[]] * 6
    chunks = sum(-(-len(data) // 4096) for name, data in store.files.items() if name.endswith('.tar'))
    assert len(store.gets('.tar')) - before == chunks  # each chunk once, whoever came first


def test_dropped_connections_and_busy_servers_are_tried_again(store):
    store.faults[:] = [None, 'drop', None, 503, 429] * 3
    source = TarSource(f'{store.url}/data', RANGE)
    assert [source.read(index) for index in range(12)] == [image_bytes(index) for index in range(12)]
    spans = store.gets('train-000.tar')
    assert len(set(spans)) < len(spans)  # some had to be asked for twice
    assert 'bytes=0-4095' in spans
    assert copies() == ['train-000.tar', 'train-001.tar', 'train-002.tar']


def test_a_download_that_was_cut_off_goes_on_where_it_stopped(store):
    store.faults[:] = [None, None] + [500] * remote.TRIES
    shards = RemoteShards([f'{store.url}/data/train-000.tar'])
    with pytest.raises(StoreError, match=r'train-000\.tar: 6 consecutive tries failed; the last: status 500'):
        shards.open(0)
    assert copies() == ['train-000.tar.partial']
    store.requests.clear()
    os.close(shards.open(0))
    assert store.gets()[0] == 'bytes=8192-12287'
    assert copies() == ['train-000.tar']
    (place,) = copies_folder().iterdir()
    assert place.read_bytes() == store.files['/data/train-000.tar']


def test_a_server_without_ranges_sends_all(store):
    store.ranges, store.faults[:] = False, ['drop', None]
    source = TarSource(f'{store.url}/data', 'train-000.tar')
    assert source.read(3) == image_bytes(3)
    assert len(store.gets('.tar')) == 2


def test_a_server_that_hangs_is_given_up(store, monkeypatch):
    monkeypatch.setattr(remote, 'TIMEOUT', 0.2)
    monkeypatch.setattr(remote, 'TRIES', 3)
    store.faults[:] = ['hang'] * 3
    start = time.monotonic()
    with pytest.raises(StoreError, match=r'train-000\.tar: 3 consecutive tries failed; the last: no response within 0\.2 s'):
        TarSource(f'{store.url}/data', 'train-000.tar')
    assert time.monotonic() - start < 4


def test_no_server_at_all(store):
    store.shutdown()
    store.server_close()
    with pytest.raises(StoreError, match=r'train-000\.tar: 6 consecutive tries failed; the last: Client\w+Error: '):
        TarSource(f'{store.url}/data', 'train-000.tar')


def test_what_is_not_there_is_not_tried_again(store):
    with pytest.raises(FileNotFoundError, match=r'2 of 5 shards are missing; the first: http://\S+/train-003\.tar'):
        TarSource(f'{store.url}/data', 'train-{000..004}.tar')
    assert len(store.requests) == 3 + 2 * 2  # asked for by HEAD, then by GET
    with pytest.raises(ValueError, match=r'web servers cannot list files; use a range \(train-\{000000'):
        TarSource(f'{store.url}/data', '*.tar')
    with pytest.raises(ValueError, match='only shards can be read from a URL; set shards'):
        ImageDataset(f'{store.url}/data', CROPS)
    with pytest.raises(ValueError, match=r'nothing://bucket: Protocol not known'):
        TarSource('nothing://bucket', '*.tar')


def test_a_shard_that_changes_is_an_error_not_another_image(store):
    dataset = ImageDataset(f'{store.url}/data', CROPS, shards=RANGE)
    for path in copies_folder().iterdir():
        path.unlink()
    store.tags['/data/train-001.tar'] = '"2"'
    assert dataset[0]['unreadable'] == []
    with pytest.raises(StoreError, match=r'train-001\.tar has changed since .* \(\d+ "1", now \d+ "2"\): restart'):
        dataset[5]
    del store.files['/data/train-002.tar']
    with pytest.raises(StoreError, match=r'train-002\.tar no longer exists'):
        dataset[9]
    assert copies() == ['train-000.tar']


def test_a_copy_that_was_tampered_with_is_fetched_again(store):
    source = TarSource(f'{store.url}/data', RANGE)
    for path in copies_folder().iterdir():
        os.truncate(path, 100)
    assert source.read(7) == image_bytes(7)


def fetch(urls):
    shard_cache.CHUNK = 4096
    shards = RemoteShards(urls)
    return [os.pread(shards.open(number), 100_000, 0) for number in range(len(urls))]


def test_two_processes_fetch_each_shard_once(store):
    urls = [f'{store.url}/data/train-{number:03d}.tar' for number in range(3)]
    store.faults[:] = [None, 503, None]
    with multiprocessing.get_context('fork').Pool(2) as pool:
        for contents in pool.map(fetch, [urls, urls], chunksize=1):
            assert contents == [store.files[f'/data/train-{number:03d}.tar'] for number in range(3)]
    chunks = sum(-(-len(data) // 4096) for data in store.files.values())
    assert len(store.gets()) == chunks + 1


def test_the_oldest_copies_make_room_but_none_in_use(store, monkeypatch):
    size = len(store.files['/data/train-000.tar'])
    shards = RemoteShards([f'{store.url}/data/train-{number:03d}.tar' for number in range(3)])
    monkeypatch.setenv('MMADCLR_SHARD_CACHE_SIZE', f'{2.5 * size / 1000}K')
    first = shards.open(0)
    os.close(shards.open(1))
    os.close(shards.open(2))  # the second is older by its use than none, but the first is open
    assert copies() == ['train-000.tar', 'train-002.tar']
    second = shards.open(1)
    with pytest.raises(StoreError, match=r'copies in use .* and the next shard .* exceed MMADCLR_SHARD_CACHE_SIZE='):
        shards.open(2)
    os.close(first)
    os.close(shards.open(2))
    assert copies() == ['train-001.tar', 'train-002.tar']
    os.close(second)
    monkeypatch.setenv('MMADCLR_SHARD_CACHE_SIZE', 'much')
    with pytest.raises(ValueError, match="MMADCLR_SHARD_CACHE_SIZE='much' must be a size"):
        shards.open(0)


def test_sizes(monkeypatch):
    for text, size in {'': float('inf'), '100': 100, '1.5k': 1500, '200 GB': 200e9, '2T': 2e12}.items():
        monkeypatch.setenv('MMADCLR_SHARD_CACHE_SIZE', text)
        assert size_limit() == size


def test_a_full_disk_is_explained(store, tmp_path, monkeypatch):
    source = TarSource(f'{store.url}/data', RANGE)
    monkeypatch.setenv('MMADCLR_SHARD_CACHE', str(tmp_path / 'full'))

    def no_space(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as context:
        context.setattr(shard_cache.os, 'pwrite', no_space)
        message = (
            r'cannot store a copy of http\S+/train-000\.tar \(.* bytes\) in .*full: No space left .*; free disk space, '
        )
        with pytest.raises(StoreError, match=message + 'set MMADCLR_SHARD_CACHE to a folder on another disk, or set MM'):
            source.read(0)
        assert copies() == []  # what it took is given back
        context.setattr(shard_cache.shutil, 'disk_usage', lambda _: type('Usage', (), dict(free=7)))
        with pytest.raises(StoreError, match=r'No space left on device \(7 bytes are free\)'):
            source.read(0)
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('MMADCLR_SHARD_CACHE', str(tmp_path / 'file'))
    with pytest.raises(
        StoreError, match=r'cannot store a copy .*file: File exists; set MMADCLR_SHARD_CACHE to another folder$'
    ):
        source.read(0)


def test_stores_that_list_are_asked_by_a_glob():
    fsspec = pytest.importorskip('fsspec')
    memory = fsspec.filesystem('memory')
    memory.store.clear()
    with running():
        for number in range(2):
            memory.pipe(f'/bucket/train/{number}.tar', tar_bytes(number))
        memory.pipe('/bucket/train/._0.tar', b'Mac OS X')
        source = TarSource('memory://bucket/train', '*.tar')
        assert source.shards == ['memory:///bucket/train/0.tar', 'memory:///bucket/train/1.tar']
        assert [source.read(index) for index in range(2)] == [image_bytes(0), image_bytes(1)]
        with pytest.raises(FileNotFoundError, match=r"no shard in memory://bucket/train matches shards='\*\.zip'"):
            TarSource('memory://bucket/train', '*.zip')
        memory.pipe('/bucket/train/1.tar', tar_bytes(5))
        assert TarSource('memory://bucket/train', '*.tar').read(1) == image_bytes(5)  # another version, another index
    memory.store.clear()


def tar_bytes(seed):
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as tar:
        member = tarfile.TarInfo('a.jpg')
        member.size = len(image_bytes(seed))
        tar.addfile(member, io.BytesIO(image_bytes(seed)))
    return buffer.getvalue()


def test_secrets_are_not_shown(store, monkeypatch):
    store.password = 'Basic bWU6c2VjcmV0'  # me:secret
    root = store.url.replace('http://', 'http://me:$STORE_PASSWORD@') + '/data?signature=$SIGNATURE'
    with pytest.raises(ValueError, match=r'the environment variable \$STORE_PASSWORD is not set'):
        TarSource(root, RANGE)
    monkeypatch.setenv('SIGNATURE', 'abc')
    monkeypatch.setenv('STORE_PASSWORD', 'wrong-secret')
    with pytest.raises(StoreError, match='access denied') as caught:
        TarSource(root, RANGE)
    assert 'secret' not in str(caught.value)
    assert caught.value.__suppress_context__
    monkeypatch.setenv('STORE_PASSWORD', 'secret')
    dataset = ImageDataset(root, CROPS, shards=RANGE)
    texts = [str(dataset.data_root), dataset.source.name(0), dataset.source.key(0).decode(), *copies()]
    assert not any(word in text for text in texts for word in ('secret', 'abc', 'me:'))
    store.faults[:] = [500] * 6
    with pytest.raises(StoreError) as caught:
        RemoteShards([f'{dataset.source.shards[0]}&more'], [b'9 x']).open(0)
    assert 'secret' not in str(caught.value)
    assert 'abc' not in str(caught.value)


def test_secrets_of_a_config_are_refused():
    from mmengine.config import Config

    for url in ('https://me:pw@host/x', 'https://host/x?sig=abc'):
        assert has_secrets(url)
        with pytest.raises(
            ConfigError,
            match=r'train\.data_root: https://host/x has a password .*name of an environment variable \(\$NAME\)',
        ):
            check_secrets(Config(dict(train=dict(data_root=url))))
    for url in ('https://host/x', 'https://me:$PW@host/x?$SIG', 's3://bucket/a?b', '/a?b@c', 's3://bucket/me:you@x'):
        assert not has_secrets(url)
    assert shown('s3://bucket/me:you@x') == 's3://bucket/me:you@x'
    assert join('https://host/d/?sig=1', 'a b#.tar') == 'https://host/d/a%20b%23.tar?sig=1'


def test_a_missing_package_is_named(monkeypatch):
    for module, root in (
        ('aiohttp', 'https://host/x'),
        ('s3fs', 's3://bucket'),
        ('gcsfs', 'gs://bucket'),
        ('fsspec', 's3://b'),
    ):
        with monkeypatch.context() as context:
            context.setitem(sys.modules, module, None)
            with pytest.raises(ValueError, match=r"pip install 'mmadclr\[remote\]'"):
                TarSource(root, 'a.tar')


@pytest.mark.long
def test_a_run_reads_shards_of_a_web_server(tmp_path, monkeypatch, image_folder):
    """Packed, served, and trained on by workers that fetch; the losses are those of the local shards."""
    monkeypatch.setattr(shard_cache, 'CHUNK', 16 << 20)
    pack_shards(image_folder(count=24), tmp_path / 'packed', images_per_shard=6, with_label=True)
    losses = []
    with running() as store:
        for path in (tmp_path / 'packed').iterdir():
            store.files[f'/data/{path.name}'] = path.read_bytes()
        store.faults[:] = [None, 503, 'drop', None]
        for root in (f'{store.url}/data', str(tmp_path / 'packed')):
            config = tmp_path / f'run{len(losses)}.py'
            dataset = dict(
                _delete_=True, type='ImageDataset', data_root=root, shards='{000000..000003}.tar', transform=SMALL
            )
            loader = dict(batch_size=4, num_workers=2, sampler=dict(type='ShardSampler'), dataset=dataset)
            config.write_text(
                f"_base_ = [r'{REPO}/configs/demo/adclr_vittiny_shapes.py']\n"
                f'train_dataloader = {loader!r}\n'
                'val_cfg = val_dataloader = val_evaluator = None\n'
                "visualizer = dict(_delete_=True, type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])\n"
                'train_cfg = dict(max_epochs=2)\n'
                'default_hooks = dict(schedule=dict(warmup_epochs=1), logger=dict(interval=1))\n'
            )
            work_dir = tmp_path / f'work{len(losses)}'
            python('tools/train.py', config, '--work-dir', work_dir)
            lines = [json.loads(line) for line in next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()]
            losses.append([line['loss'] for line in lines if 'loss' in line])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12
    assert len(store.gets('.tar')) >= 4
