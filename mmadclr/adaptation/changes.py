"""Changes of the recipe by ``--cfg-options``: which ones are possible, and the plan that remains true with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmadclr.adaptation.plan import Plan

LENGTH = 'train_cfg.max_epochs'
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
    """Checks that no change is of a setting that the command decides.

    Raises:
        ValueError: One is; says what to use instead.
    """
    for key, value in changes.items():
        for fixed, why in FIXED.items():
            if is_part(key, fixed) or is_part(fixed, key):
                raise ValueError(f'--cfg-options {key}={value} is not possible in adapt: {why}')
    epochs = changes.get(LENGTH, 1)
    if type(epochs) is not int or epochs < 1:
        raise ValueError(f'--cfg-options {LENGTH}={epochs} must be a whole number of at least 1')


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
    schedule = cfg.default_hooks.get('schedule') or {}
    return plan._replace(
        prototypes=cfg.model.head.out_dim,
        lr=cfg.optim_wrapper.optimizer.lr,
        frozen_blocks=cfg.model.get('frozen_blocks', 0),
        heads_epochs=min(plan.epochs, schedule.get('freeze_backbone_epochs', 0)),
        evaluations=-(-plan.epochs // cfg.train_cfg.val_interval),
    )
