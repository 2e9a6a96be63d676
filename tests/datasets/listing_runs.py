"""One of two processes that see folders of their own: ``listing_runs.py ROOT`` writes what came of each case as JSON."""

import json
import os
import pickle
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from mmengine.registry import DefaultScope

from mmadclr.datasets import ClassFolders, ImageDataset, listing, shared_listing, sources, walking  # noqa: F401 (registered)
from mmadclr.evaluation import feature_cache
from mmadclr.evaluation.extraction import Loading

CENTER = dict(type='ResizeCenterCrop', resize=16, size=16)


def outcome(case: str) -> str:
    cfg = dict(type='ImageDataset', data_root=case, transform=CENTER, with_label=True)
    if case == 'list':
        cfg['ann_file'] = 'list/list.txt'
    if case == 'class folders':
        cfg = dict(type='ClassFolders', data_root=case)
    try:
        built = listing.listed_alike(cfg)['type']()
    except (ValueError, OSError) as error:
        return f'{type(error).__name__}: {error}'
    return f'{len(built)} images'


def shared(case: str, root: Path, rank: int) -> dict:
    """What comes of a folder of which rank 1 has another copy at the same place, and how often it looked into folders."""
    sources.absolute = str  # as if both were at one place, on nodes that differ
    looks, scandir = [], os.scandir
    walking.os.scandir = lambda path: looks.append(path) or scandir(path)
    listing.share_in(root / ('unseen' if case == 'unseen' else 'work'))
    save, visible = shared_listing.save, listing.is_visible
    if case == 'full':
        shared_listing.save = full
    if case == 'unseen' and rank == 1:
        listing.socket.gethostname = lambda: 'elsewhere'
        listing.is_visible = shared_listing.is_visible = lambda found: str(root) not in found.folder
    cfg = dict(type='ImageDataset', data_root=case, transform=CENTER, with_label=True)
    if case == 'other list':
        cfg['ann_file'] = f'{case}/list.txt'
    try:
        built = listing.listed_alike(cfg)['type']()
        names = [os.fsdecode(built.source.key(number)) for number in range(len(built))]
        again = pickle.loads(pickle.dumps(built.source))
        found = dict(
            names=names,
            labels=built.labels.tolist(),
            file=getattr(built.labels, 'path', None),
            pickled=len(pickle.dumps(built.source)),
            again=[again.labels.tolist(), getattr(again.labels, 'path', None)],
        )
    except (ValueError, OSError) as error:
        found = dict(error=f'{type(error).__name__}: {error}')
    finally:
        walking.os.scandir, shared_listing.save = scandir, save
        listing.is_visible = shared_listing.is_visible = visible
    return found | dict(looks=len(looks))


def full(source, folder, view):
    raise OSError(28, 'No space left on device')


def cached(folder: Path, rank: int, seen: dict[int, bool | None]) -> list[str]:
    """What this process does, where it sees a cache, something else (False) or nothing (None) at that place."""
    done = []
    feature_cache._look = lambda _: seen[rank]
    feature_cache.write_cache = lambda *_: done.append('written')
    feature_cache.read_cache = lambda *_: done.append('read')
    try:
        feature_cache.cached_features(folder, None, None, {}, Loading())
    except ValueError as error:
        done.append(str(error))
    return done


def main(root: Path) -> None:
    torch.distributed.init_process_group('gloo')
    rank = torch.distributed.get_rank()
    os.chdir(root / f'rank{rank}')
    DefaultScope.get_instance('listing', scope_name='mmadclr')
    listing.BLOCK = 3
    results = {case: outcome(case) for case in json.loads((root / 'cases.json').read_text())}
    for case in json.loads((root / 'shared.json').read_text()):
        results[f'shared {case}'] = shared(case, root, rank)
    for name, seen in {'late': {0: None, 1: True}, 'gone': {0: True, 1: None}, 'other': {0: False, 1: None}}.items():
        results[f'cache {name}'] = cached(root / 'cache', rank, seen)
    (root / f'rank{rank}.json').write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main(Path(sys.argv[1]))
