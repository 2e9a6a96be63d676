"""The config of an adaptation: a shipped one with what the plan chose."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config

from mmadclr.adaptation.changes import TRANSFORM, with_changes
from mmadclr.adaptation.plan import Masked, Plan, Sizes, head_scale
from mmadclr.config.check import check_config
from mmadclr.config.loading import load_config
from mmadclr.datasets import ImageDataset
from mmadclr.datasets.center_crop import short_side
from mmadclr.evaluation.adaptation.comparison import RANK_LOSS
from mmadclr.hub.starting import Start, complete_start

NUM_EVALUATION_WORKERS = 0
LIST = 'images.txt'
SCHEDULE = 'default_hooks.schedule'


def reading(args: Namespace) -> dict[str, Any]:
    """How the weights are read: arguments of ``open_backbone`` that are not its defaults."""
    given = dict(which=args.which, prefix=args.prefix, num_heads=args.num_heads, facts=dict(args.fact))
    return {key: value for key, value in given.items() if value not in ('teacher', None, {})}


def evaluation_set(data: str, side: int, labels: bool = False) -> dict[str, Any]:
    """Config of the images as they are measured."""
    transform = dict(type='ResizeCenterCrop', resize=short_side(side), size=side)
    return dict(type='ImageDataset', data_root=data, with_label=labels, transform=transform)


def base_options(sizes: Sizes, batch: int, start: Start, args: Namespace) -> dict[str, Any]:
    """Overrides that the time of a step depends on; ``batch``: images of each process."""
    workers, rank, read = args.workers, args.low_rank, reading(args)
    options: dict[str, Any] = {
        f'{TRANSFORM}.global_size': sizes.large,
        f'{TRANSFORM}.local_size': sizes.small,
        f'{TRANSFORM}.query_size': sizes.query,
        'train_dataloader.batch_size': batch,
        'train_dataloader.num_workers': workers,
        'train_dataloader.persistent_workers': workers > 0,
        'train_dataloader.pin_memory': torch.cuda.is_available(),
        'model.low_rank': None if rank is None else dict(rank=rank),
    }
    if read.pop('num_heads', None) is not None:
        options['model.backbone.arch'] = start.settings['arch']
    options |= {f'model.backbone.init_cfg.{key}': value for key, value in read.items()}
    if args.method == 'ibot':
        options |= {f'{TRANSFORM}.mask.patch_size': sizes.patch, 'model.mask_student': start.mask_token_trained}
    return options


def plan_options(plan: Plan, width: int) -> dict[str, Any]:
    """Overrides of a plan."""
    return {
        'train_cfg.max_epochs': plan.epochs,
        'train_cfg.val_interval': -(-plan.epochs // plan.evaluations),
        'auto_scale_lr.base_batch_size': plan.batch,
        'model.head.out_dim': plan.prototypes,
        'model.frozen_blocks': plan.frozen_blocks,
        'optim_wrapper.optimizer.lr': plan.lr,
        'optim_wrapper.paramwise_cfg.head_scale': head_scale(width),
        f'{SCHEDULE}.freeze_backbone_epochs': plan.heads_epochs,
        f'{SCHEDULE}.warmup_epochs': 0.05 * plan.epochs,
        f'{SCHEDULE}.momentum': (0.99, 0.999 if plan.steps >= 5000 else 0.996),
        f'{SCHEDULE}.teacher_temp_warmup_epochs': round(0.3 * plan.epochs),
        'default_hooks.logger.interval': max(1, min(50, plan.steps // 20)),
    }


def build_config(args: Namespace, options: dict[str, Any], seed: int) -> Config:
    """The config of the method with overrides and the changes of the user, completed by what the weights say."""
    weights = Path(args.weights)
    options = {**options, 'pretrained': str(weights.absolute()) if weights.exists() else args.weights}
    chosen = Namespace(
        config=f'adapt/{args.method}',
        data=str(Path(args.data).absolute()),
        cfg_options=with_changes(options, args.cfg_options),
        work_dir=args.work_dir,
        launcher=args.launcher,
        local_rank=args.local_rank,
    )
    cfg = load_config(chosen)
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    return complete_start(cfg)


def mask_settings(masks: str, side: int, batch: int, masked: Masked) -> dict[str, Any]:
    """Arguments of ``FolderProbe`` that measure so many images; ``batch``: of each process."""
    return dict(data_root=str(Path(masks).absolute()), size=side, max_images=max(masked), batch_size=batch)


def with_measures(cfg: Config, plan: Plan, args: Namespace, measure: str) -> Config:
    """Adds the evaluation by measures of adaptation, the best checkpoint, and the end of a run that becomes worse."""
    dataset = evaluation_set(cfg.train_dataloader.dataset.data_root, plan.sizes.large, args.labels)
    each = cfg.train_dataloader.batch_size
    loading = dict(batch_size=each, num_workers=NUM_EVALUATION_WORKERS)
    cfg.val_dataloader = dict(
        **loading,
        sampler=dict(type='EpochSampler', shuffle=False),
        collate_fn=dict(type='mmadclr.collate_samples'),
        dataset=dataset,
    )
    cfg.val_cfg = dict(type='FeatureEvalLoop', bank=dict())
    settings = dict(dataset=dataset, original=cfg.model.backbone.init_cfg.checkpoint, reading=reading(args))
    settings |= dict(images=plan.measured, seed=args.seed, **loading)
    if plan.masked_often is not None:
        settings['masks'] = mask_settings(args.masks, plan.sizes.large, each, plan.masked_often)
    cfg.val_evaluator = dict(adaptation=dict(type='AdaptationMeasures', **settings))
    cfg.custom_hooks = [
        dict(type=kind, measure=measure, least_rank=RANK_LOSS) for kind in ('KeepBestHook', 'StopWhenWorseHook')
    ]
    check_config(cfg)
    return cfg


def write_image_list(dataset: ImageDataset, number: int, seed: int, file: Path) -> None:
    """Writes a list of ``number`` images of a folder, drawn with the seed, for ``ann_file``."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(dataset))[:number])
    names = [str(dataset.path(int(index)).relative_to(dataset.data_root)) for index in chosen]
    file.write_text('\n'.join(names) + '\n')
