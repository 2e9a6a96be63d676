"""Changes of the recipe by ``--cfg-options``: which ones are possible, and the plan that remains true with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmadclr.adaptation.plan import Plan

LENGTH = 'train_cfg.max_epochs'
COUNTS = (LENGTH, 'train_cfg.val_interval', 'train_cfg.val_begin', 'train_dataloader.batch_size')  # the plan divides by them
TRANSFORM = 'train_dataloader.dataset.transform'
MEASURES = 'the measures are a part of the command; evaluate checkpoints otherwise with mmadclr knn, linear or dense'
# Keys that are not for change here, also with parts of them, and why.
FIXED = {
    **dict.fromkeys(('pretrained', 'model.backbone.init_cfg', 'load_from'), 'the weights are --weights'),
    **dict.fromkeys(
        ('data_root', *(f'train_dataloader.dataset.{key}' for key in ('type', 'data_root', 'ann_file', 'shards', 'source'))),
        'the images are those of --data',
    ),
    'model.type': 'the method is --method',
    'model.low_rank': 'the rank is --low-rank',
    f'{TRANSFORM}.global_size': 'the size is --size',
    'train_dataloader.num_workers': 'the number is --workers',
    'randomness.seed': 'the seed is --seed',
    'work_dir': 'the folder is --work-dir',
    'launcher': 'the launcher is --launcher',
    'resume': 'the same command continues a run by itself',
    **dict.fromkeys(('train_cfg.type', 'train_cfg.max_iters'), f'the length is counted in epochs: {LENGTH}'),
    **dict.fromkeys(('val_dataloader', 'val_cfg', 'val_evaluator', 'custom_hooks'), MEASURES),
}


def check_changes(changes: Mapping[str, Any]) -> None:
    """Checks changes that the plan could not tell.

    Raises:
        ValueError: One is of a setting that the command decides (says what to use instead), or a number is not one.
    """
    for key, value in changes.items():
        for fixed, why in FIXED.items():
            if is_part(key, fixed) or is_part(fixed, key):
                raise ValueError(f'--cfg-options {key}={value} is not possible in adapt: {why}')
        if key in COUNTS and (type(value) is not int or value < 1):
            raise ValueError(f'--cfg-options {key}={value} must be a whole number of at least 1')


def is_part(key: str, of: str) -> bool:
    """Whether a dotted key is another one, or a part of it."""
    return f'{key}.'.startswith(f'{of}.')


def with_changes(options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides of the command and, in place of theirs and of their parts, those of the user."""
    kept = {key: value for key, value in options.items() if not any(is_part(key, changed) for changed in changes)}
    return kept | dict(changes)


def as_texts(changes: Mapping[str, Any]) -> list[str]:
    """The changes as they are recorded, in the order of their keys."""
    return [f'{key}={value!r}' for key, value in sorted(changes.items())]


def as_built(plan: Plan, cfg: Config) -> Plan:
    """The plan with what the config of the run really has."""
    schedule, loop, epochs = cfg.default_hooks.get('schedule') or {}, cfg.train_cfg, plan.epochs
    ends = range(loop.get('val_begin', 1), epochs + 1)
    return plan._replace(
        prototypes=cfg.model.head.out_dim,
        lr=cfg.optim_wrapper.optimizer.lr,
        frozen_blocks=cfg.model.get('frozen_blocks', 0),
        heads_epochs=min(epochs, schedule.get('freeze_backbone_epochs', 0)),
        evaluations=sum(epoch % loop.val_interval == 0 or epoch == epochs for epoch in ends),
    )
