"""One of two processes that see folders of their own: ``listing_runs.py ROOT`` writes what came of each case as JSON."""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from mmengine.registry import DefaultScope

from mmadclr.datasets import ClassFolders, ImageDataset  # noqa: F401 (registered)
from mmadclr.engine import listing
from mmadclr.evaluation import feature_cache
from mmadclr.evaluation.extraction import Loading

CENTRE = dict(type='ResizeCentreCrop', resize=16, size=16)


def outcome(case: str) -> str:
    cfg = dict(type='ImageDataset', data_root=case, transform=CENTRE, with_label=True)
    if case == 'list':
        cfg['ann_file'] = 'list/list.txt'
    if case == 'class folders':
        cfg = dict(type='ClassFolders', data_root=case)
    try:
        built = listing.listed_alike(cfg)['type']()
    except (ValueError, OSError) as error:
        return f'{type(error).__name__}: {error}'
    return f'{len(built)} images'


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
    for name, seen in {'late': {0: None, 1: True}, 'gone': {0: True, 1: None}, 'other': {0: False, 1: None}}.items():
        results[f'cache {name}'] = cached(root / 'cache', rank, seen)
    (root / f'rank{rank}.json').write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main(Path(sys.argv[1]))
