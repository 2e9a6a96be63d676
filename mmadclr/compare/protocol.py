"""Settings that methods must share for a fair comparison."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmengine.config import Config

TRANSFORM = 'train_dataloader.dataset.transform'
# Methods differ in query crops, masks, heads, losses and schedules.
ASPECTS = {
    'data': ('train_dataloader.dataset', 'train_dataloader.sampler', 'train_dataloader.drop_last'),
    'batch': ('train_dataloader.batch_size', 'optim_wrapper.accumulative_counts'),
    'epochs': ('train_cfg.max_epochs',),
    'network': ('model.backbone.arch', 'model.backbone.img_size', 'model.backbone.drop_path_rate'),
    'global_views': tuple(f'{TRANSFORM}.{key}' for key in ('type', 'global_size', 'global_scale', 'global_1', 'global_2')),
    'local_views': tuple(f'{TRANSFORM}.{key}' for key in ('num_local', 'local_size', 'local_scale', 'local')),
    'execution': (
        *('compile', 'sharding', 'optim_wrapper.precision', 'model.backbone.grad_checkpointing'),
        *('model.data_preprocessor.arithmetic', f'{TRANSFORM}.backend', f'{TRANSFORM}.decode'),
    ),
    'evaluation': ('val_dataloader', 'val_cfg', 'val_evaluator'),
}


def check_alike(configs: Mapping[str, Config], allowed: Collection[str]) -> list[str]:
    """Compares every config with the first, aspect by aspect; returns descriptions of the allowed differences.

    Args:
        configs: Resolved configs by name.
        allowed: Keys of :data:`ASPECTS` that may differ.

    Raises:
        ValueError: Another aspect differs.
    """
    (first, reference), *others = ((name, cfg.to_dict()) for name, cfg in configs.items())
    found = []
    for aspect, keys in ASPECTS.items():
        for name, cfg in others:
            difference = first_difference(cfg, reference, keys)
            if difference and aspect not in allowed:
                raise ValueError(
                    f'{name} and {first} differ in {aspect}: {difference}. Make them equal with --cfg-options, or pass '
                    f'--allow-different {aspect} to accept the difference'
                )
            if difference:
                found.append(f'{name} differs from {first} in {aspect}: {difference}')
    return found


def first_difference(cfg: Mapping, reference: Mapping, keys: Sequence[str]) -> str | None:
    """Description of the first difference between two configs below the dotted ``keys``; None if there is none."""
    return next(filter(None, (_differ(key, _get(cfg, key), _get(reference, key)) for key in keys)), None)


def _get(node: Any, path: str) -> Any:
    for key in path.split('.'):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _differ(path: str, a: Any, b: Any) -> str | None:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = [key for key in {**a, **b} if f'{path}.{key}' != TRANSFORM]
        return next(filter(None, (_differ(f'{path}.{key}', a.get(key), b.get(key)) for key in keys)), None)
    a, b = (list(x) if isinstance(x, tuple) else x for x in (a, b))
    return None if a == b else f'{path} is {a} vs. {b}'
