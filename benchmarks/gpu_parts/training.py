"""What DINO and ADCLR learn: ViT-S/16 at 96 pixels, equal steps, seeds in turn until the time is over.

Images: class folders ``train`` and ``val`` of the folder that ``--images`` names, or of its ``cls``. Where that folder, or
its ``seg``, has ``images`` and ``annotations`` with ``training`` and ``validation`` (ADE20K's layout), patches are probed.
Without ``--images``, shapes are drawn, which have masks.
"""

from __future__ import annotations

import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from PIL import Image

from gpu_parts.context import Context, number, table, workers_that_fit
from mmadclr.engine import Runner

NEEDS_GPU = True
TITLE = 'Training'
CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
METHODS = {'ADCLR': 'adclr/vits16_small.py', 'DINO': 'dino/vits16_small.py'}
BATCH, SIDE = 256, 96
IMAGE_BYTES = 3 * (2 * SIDE**2 + 4 * 48**2 + 4 * 16**2)  # of uint8 crops
SHAPES = dict(num_train=2000, num_val=500, image_size=SIDE)
TOY_SHAPES = dict(num_train=12, num_val=10, image_size=SIDE)


def run(context: Context) -> None:
    plan = context.measure('plan', partial(make_plan, context))
    if plan is None:
        return
    took = plan['expected_s']
    for seed in range(1 if context.smoke else 20):
        for method in METHODS:
            start, needs = time.monotonic(), 1.1 * took if seed else 0.0  # one run of each in any case
            run_once = partial(train, context, method, seed, plan['epochs'])
            if context.measure(f'{method}, seed {seed}', run_once, needs) is None:
                return
            took = max(took, time.monotonic() - start)


def make_plan(context: Context) -> dict[str, Any]:
    """Epochs of every run, such that one run of each method fits into the time; from three epochs of ADCLR."""
    if context.smoke:
        return {'epochs': 1, 'expected_s': 0.0}
    clock, cfg = Clock(), config(context, 'ADCLR', seed=0, epochs=3)
    runner = Runner.from_cfg(cfg)  # draws the images, if there are none
    runner.register_hook(clock)
    runner.train()
    epochs = epochs_for(context.left(), clock.epochs[-1], sum(clock.evaluations))
    return {'epochs': epochs, 'expected_s': epochs * clock.epochs[-1] + 2 * sum(clock.evaluations)}


def epochs_for(left: float, epoch: float, evaluation: float) -> int:
    """Of a run, if two runs, each with an evaluation before and one after, are to take nine tenths of the time left."""
    return int(max(4, min(200, (0.45 * left - 2 * evaluation) / epoch)))


def train(context: Context, method: str, seed: int, epochs: int) -> dict[str, Any]:
    """k-NN and, where there are masks, mIoU, before and after training."""
    before = Runner.from_cfg(config(context, method, seed, epochs)).val()
    runner = Runner.from_cfg(config(context, method, seed, epochs))
    start = time.monotonic()
    runner.train()
    seconds = time.monotonic() - start
    hub = runner.message_hub
    after = {name: hub.get_scalar(f'val/{name}').current() for name in before}
    images = runner.iter * runner.train_dataloader.batch_sampler.batch_size
    return {
        'method': method,
        'seed': seed,
        'steps': runner.iter,
        'seconds': seconds,
        'images_per_s': images / seconds,
        'before': before,
        'after': after,
    }


def config(context: Context, method: str, seed: int, epochs: int) -> Config:
    """The method's config for small data, on the images at hand."""
    cfg = Config.fromfile(CONFIGS / METHODS[method])
    batch = 4 if context.smoke else BATCH
    sets = {'train': cfg.train_dataloader, 'val': cfg.val_dataloader}
    for split, loader in sets.items():
        loader.batch_size = batch
        loader.num_workers = 0 if context.smoke else workers_that_fit(14, BATCH * IMAGE_BYTES)
        loader.persistent_workers = loader.num_workers > 0 and split == 'train'
        place(context, loader.dataset, split)
    cfg.val_cfg.bank = (
        dict(split='train') if images_of(context) is None else dict(data_root=str(images_of(context) / 'train'))
    )
    if probe := dense_probe(context):
        cfg.val_evaluator.dense = dict(type='DenseProbe', **probe)
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    hooks = cfg.default_hooks
    hooks.schedule.update(warmup_epochs=min(5, epochs // 4), teacher_temp_warmup_epochs=min(30, epochs // 2))
    hooks.schedule.freeze_last_layer_epochs = min(1, epochs // 4)
    hooks.checkpoint = dict(interval=epochs, max_keep_ckpts=1)
    cfg.randomness, cfg.log_level = dict(seed=seed), 'WARNING'
    cfg.compile = False  # takes longer than such a short run gains
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    cfg.work_dir = str(scratch(context) / f'{method.lower()}_{seed}_{time.time_ns()}')
    cfg.experiment_name = Path(cfg.work_dir).name
    if context.smoke:
        cfg.model.backbone.arch = dict(embed_dim=24, depth=2, num_heads=3, patch_size=16)
        cfg.model.head.update(out_dim=64, hidden_dim=32)
        cfg.val_evaluator.knn.k = 3
    return cfg


def place(context: Context, dataset: dict, split: str) -> None:
    """Points a data set to the images at hand."""
    root = images_of(context)
    if root is not None:
        dataset.data_root = str(root / split)
        return
    shapes = TOY_SHAPES if context.smoke else SHAPES
    dataset.update(type='ShapesDataset', split=split, data_root=str(scratch(context) / 'shapes'), **shapes)


def scratch(context: Context) -> Path:
    """For drawn images and work dirs: not among the results."""
    return CONFIGS.parent / 'work_dirs' / 'gpu' / ('smoke' if context.smoke else 'full')


def images_of(context: Context) -> Path | None:
    """Where ``train`` and ``val`` lie; None for drawn ones.

    Raises:
        FileNotFoundError: ``--images`` has no such folders.
    """
    if context.images is None:
        return None
    for root in (context.images, context.images / 'cls'):
        if (root / 'train').is_dir() and (root / 'val').is_dir():
            return root
    raise FileNotFoundError(f'{context.images} has no class folders below train and val, nor below cls/train and cls/val')


def dense_probe(context: Context) -> dict[str, Any] | None:
    """Settings of the probe of frozen patches, where there are masks."""
    if context.images is None:
        root = scratch(context) / 'shapes'
        train, val = (dict(img_dir=split, mask_dir=f'semantic/{split}') for split in ('train', 'val'))
        side, classes, most = SIDE, 11, 10 if context.smoke else 400
    else:
        root = masks_of(context.images)
        if root is None:
            return None
        train, val = (dict(img_dir=f'images/{s}', mask_dir=f'annotations/{s}') for s in ('training', 'validation'))
        side, classes, most = 256, number_of_classes(root / 'annotations'), 400
    shared = dict(data_root=str(root), size=side, num_classes=classes, max_images=most)
    return dict(train={**shared, **train}, val={**val, 'max_images': most}, bank_size=200 if context.smoke else 20000)


def masks_of(images: Path) -> Path | None:
    parts = ('images/training', 'images/validation', 'annotations/training', 'annotations/validation')
    return next((root for root in (images, images / 'seg') if all((root / part).is_dir() for part in parts)), None)


@cache
def number_of_classes(folder: Path) -> int:
    """One more than the largest label, 255 left out."""
    labels = (np.unique(np.asarray(Image.open(path))) for path in folder.rglob('*.png'))
    return 1 + max(int(values[values < 255].max(initial=0)) for values in labels)


class Clock(Hook):
    """Seconds of every epoch and of every evaluation."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.evaluations: list[float] = []

    def before_train_epoch(self, runner) -> None:
        self.start = time.monotonic()

    def after_train_epoch(self, runner) -> None:
        self.epochs.append(time.monotonic() - self.start)

    def before_val(self, runner) -> None:
        self.start = time.monotonic()

    def after_val(self, runner) -> None:
        self.evaluations.append(time.monotonic() - self.start)


def section(rows: dict[str, dict[str, Any]]) -> list[str]:
    runs = [row for row in rows.values() if 'method' in row]
    if not runs:
        return ['No run was reached.']
    names = list(runs[0]['after'])
    cells = [
        [row['method'], str(row['seed']), str(row['steps']), number(row['images_per_s'])]
        + [f'{number(row["before"][name])} -> {number(row["after"][name])}' for name in names]
        for row in runs
    ]
    return table(['method', 'seed', 'steps', 'images/s', *(f'{name}, %' for name in names)], cells)
