"""What adaptation gains and forgets: ``python benchmarks/adaptation.py --bases A.pth --photographs DIR --folders DIR``.

From every base, a checkpoint that was pretrained on the photographs with a seed of its own, each recipe of ``RECIPES``
trains on every folder of images with masks, for the same number of steps: from continuing as in pretraining to the recipe of
``mmadclr adapt``, one change at a time. The last teacher of each is measured: mIoU of two classifiers of frozen patches on
the images it was adapted to, and k-NN of the photographs it comes from. The measures choose nothing. Finished runs are not
repeated; ``benchmarks/tiles.py`` makes folders that suit small views.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import common
import torch

from mmadclr.adaptation.plan import Sizes, choose_sizes, make_plan
from mmadclr.adaptation.settings import TRANSFORM, plan_options
from mmadclr.compare.chance import difference
from mmadclr.compare.table import summarize
from mmadclr.datasets import ImageDataset
from mmadclr.datasets.center_crop import short_side
from mmadclr.evaluation.adaptation import FolderProbe, encoder_of, random_twin
from mmadclr.evaluation.extraction import Loading, extract
from mmadclr.evaluation.frozen import frozen
from mmadclr.evaluation.knn import WeightedKNN, evaluate_knn
from mmadclr.hub.export.card import CardText
from mmadclr.hub.export.folder import export_opened
from mmadclr.hub.export.origin import read_origin
from mmadclr.hub.opening import OpenedBackbone, open_backbone

SCHEDULE, IMAGES = 'default_hooks.schedule', 'images/train'
# The rate of the photographs' pretraining, for all parameters, and what `adapt` adds to it in turn.
PRETRAINING_RATE = 6e-3 / 256  # for each image of a step
AS_PRETRAINED = {
    f'{SCHEDULE}.freeze_backbone_epochs': 0,
    'optim_wrapper.paramwise_cfg.layer_decay': 1.0,
    'optim_wrapper.paramwise_cfg.patch_embed_scale': 1.0,
    'optim_wrapper.paramwise_cfg.head_scale': 1.0,
    'model.anchor': None,
    'model.frozen_blocks': 0,
}
HEADS_FIRST = AS_PRETRAINED.keys() - {f'{SCHEDULE}.freeze_backbone_epochs'}
LOW_RATES = {'model.anchor', 'model.frozen_blocks'}


class Recipe(NamedTuple):
    """``method`` of ``configs/adapt``; ``undone``: settings of the recipe that are those of pretraining instead; ``rate``:
    times that of the recipe.
    """

    method: str
    undone: frozenset[str]
    from_weights: bool = True
    rate: float = 1.0


RECIPES = {
    'from nothing': Recipe('dino', frozenset(AS_PRETRAINED), from_weights=False),
    'as in pretraining': Recipe('dino', frozenset(AS_PRETRAINED)),
    '+ heads first': Recipe('dino', frozenset(HEADS_FIRST)),
    '+ low rates': Recipe('dino', frozenset(LOW_RATES)),
    '+ anchor': Recipe('dino', frozenset({'model.frozen_blocks'})),
    '+ frozen blocks': Recipe('dino', frozenset()),
    '+ query term': Recipe('adclr', frozenset()),
    '+ ten times the rate': Recipe('adclr', frozenset(), rate=10),
}
# Columns of the table by the names of their measures.
MEASURES = {
    'patch_knn20_T0.07_miou': 'mIoU, k-NN of patches',
    'patch_linear_miou': 'mIoU, linear',
    'knn20_T0.07_top1': 'photographs, k-NN',
}


class Data(NamedTuple):
    """Images to adapt to: ``name``, and what measures them."""

    name: str
    folder: Path
    probe: FolderProbe


def overrides(recipe: Recipe, start: OpenedBackbone, sizes: Sizes, images: int, args: argparse.Namespace) -> dict[str, Any]:
    """What ``mmadclr adapt`` would set for so many steps, and the recipe's differences from it."""
    epochs = max(1, round(args.steps / (images // args.batch)))
    plan = make_plan(sizes, images, args.batch, start.settings['arch'], 1.0, 1e6, epochs=epochs)
    options = plan_options(plan, start.settings['arch']['embed_dim']) | {
        f'{TRANSFORM}.global_size': sizes.large,
        f'{TRANSFORM}.local_size': sizes.small,
        f'{TRANSFORM}.query_size': sizes.query,
        'train_dataloader.batch_size': args.batch,
        'train_dataloader.num_workers': 1,
        'default_hooks.checkpoint.interval': epochs,
    }
    if 'optim_wrapper.paramwise_cfg.layer_decay' in recipe.undone:
        options['optim_wrapper.optimizer.lr'] = PRETRAINING_RATE * args.batch
    options['optim_wrapper.optimizer.lr'] *= recipe.rate
    return options | {key: AS_PRETRAINED[key] for key in recipe.undone}


def train(recipe: Recipe, base: Path, seed: int, data: Data, folder: Path, args: argparse.Namespace) -> Path:
    """Trains a recipe unless it is done; returns the last checkpoint."""
    start = open_backbone(base)
    weights = base if recipe.from_weights else random_weights(start, seed, base, folder.parent)
    sizes = choose_sizes(start.settings['arch']['patch_size'], start.img_size, None)
    images = len(list((data.folder / IMAGES).iterdir()))
    options = overrides(recipe, start, sizes, images, args) | {'pretrained': str(weights), 'randomness.seed': seed}
    changes = [f'{key}={value}'.replace(' ', '') for key, value in options.items()]
    command = [sys.executable, '-m', 'mmadclr', 'train', f'adapt/{recipe.method}', '--work-dir', str(folder)]
    command += ['--resume'] if list(folder.glob('*.pth')) else []
    subprocess.run([*command, '--data', str(data.folder / IMAGES), '--cfg-options', *changes], check=True)
    return max(folder.glob('epoch_*.pth'), key=lambda file: int(file.stem.split('_')[1]))


def random_weights(start: OpenedBackbone, seed: int, base: Path, folder: Path) -> Path:
    """Weights of the same architecture that were never trained, as a folder."""
    folder = folder / f'random{seed}'
    if not folder.exists():
        export_opened(random_twin(start, seed), read_origin(base, 'teacher', False), folder, 'safetensors', CardText())
    return folder


def measure(opened: OpenedBackbone, probe: FolderProbe, photographs: list[ImageDataset]) -> dict[str, float]:
    """mIoUs of the images with masks, and k-NN top-1 of the photographs, in percent."""
    with frozen(encoder_of(opened)) as encoder:
        bank, queries = (extract(encoder, dataset, Loading(), 'float32') for dataset in photographs)
        found = probe.of_model(encoder)
    neighbors = evaluate_knn(WeightedKNN(20), bank, queries, 'cpu')
    return {name: (found | neighbors)[name] for name in MEASURES}


def labeled(folder: Path, side: int) -> list[ImageDataset]:
    """Training and validation photographs in class folders."""
    transform = dict(type='ResizeCenterCrop', resize=short_side(side), size=side)
    return [ImageDataset(str(folder / split), dict(transform), with_label=True) for split in ('train', 'val')]


def remembered(file: Path, make) -> dict[str, float]:
    """The result in a file, or one that is made and written."""
    if not file.is_file():
        result = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result))
    return json.loads(file.read_text())


def results_of_seed(seed: int, data: Data, photographs: list[ImageDataset], args: argparse.Namespace) -> dict[str, dict]:
    """The measures of every row: the base, and each recipe."""
    base, found = args.bases[seed], {}

    def of_recipe(recipe: Recipe, folder: Path) -> dict[str, float]:
        return measure(open_backbone(train(recipe, base, seed, data, folder, args)), data.probe, photographs)

    where = args.out / data.name / f'seed{seed}'
    found['the base'] = remembered(where / 'base.json', lambda: measure(open_backbone(base), data.probe, photographs))
    for name in args.recipes:
        recipe = RECIPES[name]
        folder = where / name.strip('+ ').replace(' ', '_')
        found[name] = remembered(folder / 'result.json', lambda: of_recipe(recipe, folder))  # noqa: B023  # called at once
        print(data.name, seed, name, {key: round(value, 1) for key, value in found[name].items()}, flush=True)
    return found


def table(found: Mapping[int, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Rows of Markdown: mean and deviation over seeds, and the paired change from the base with its interval."""
    lines = [f'| | {" | ".join(MEASURES.values())} |', '|---|---|---|---|']
    for row in next(iter(found.values())):
        cells = [cell([(seed[row][name], seed['the base'][name]) for seed in found.values()]) for name in MEASURES]
        lines.append(f'| {row} | {" | ".join(cells)} |')
    return lines


def cell(pairs: list[tuple[float, float]]) -> str:
    """Mean and deviation of the first of each pair, and the difference of both."""
    now = summarize([value for value, _ in pairs])
    text = f'{now["mean"]:.1f}' + (f' ± {now["std"]:.1f}' if len(pairs) > 1 else '')
    changes = [value - before for value, before in pairs]
    if not any(changes):
        return text
    apart = difference(changes, [0.0] * len(changes))
    bounds = '' if apart is None else f' ({apart["low"]:+.1f} to {apart["high"]:+.1f})'
    return f'{text}, {sum(changes) / len(changes):+.1f}{bounds}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--bases', type=Path, nargs='+', required=True, help='checkpoints, one for each seed')
    parser.add_argument('--seeds', type=int, nargs='*', help='some of the bases (default: all)')
    parser.add_argument('--photographs', type=Path, required=True, help='class folders in train and val')
    parser.add_argument('--folders', type=Path, nargs='+', required=True, help='images and masks in train and val')
    parser.add_argument('--recipes', nargs='+', choices=RECIPES, default=list(RECIPES), help='default: all')
    parser.add_argument('--out', type=Path, default=common.OUT / 'adaptation')
    parser.add_argument('--steps', type=int, default=450)
    parser.add_argument('--batch', type=int, default=16)
    args = parser.parse_args()
    side = min(open_backbone(args.bases[0]).img_size)
    photographs = labeled(args.photographs, side)
    everything = {}
    for folder in args.folders:
        data = Data(folder.name, folder, FolderProbe(str(folder), side))
        seeds = range(len(args.bases)) if args.seeds is None else args.seeds
        everything[data.name] = {seed: results_of_seed(seed, data, photographs, args) for seed in seeds}
        print('\n'.join([f'\n{data.name}', *table(everything[data.name])]), flush=True)
    record = dict(machine=common.machine(), steps=args.steps, batch=args.batch, results=everything)
    (args.out / 'results.json').write_text(json.dumps(record, indent=1) + '\n')


if __name__ == '__main__':
    torch.manual_seed(0)
    main()
