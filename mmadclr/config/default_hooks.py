"""Hooks that every pretraining run has without listing them in its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmadclr.registry import SCOPE

# Added to mmengine's own (timer, parameter schedulers). A config can change arguments or the type; None removes a hook.
PRETRAINING: dict[str, dict] = {
    'runtime_info': dict(type='LossRecordHook'),
    'logger': dict(type='LoggerHook', interval=50),
    'checkpoint': dict(type='SafeCheckpointHook', interval=1, minutes=30, max_keep_ckpts=2),
    'epoch_seed': dict(type='EpochSeedHook'),
    'unreadable': dict(type='UnreadableImageHook', max_unreadable=100),
    'throughput': dict(type='ThroughputHook'),
    'monitor': dict(type='CollapseMonitorHook', patience=5),
    'watchdog': dict(type='WatchdogHook', timeout_s=300, first_s=3600, val_s=7200, abort_s=1500),
    'crops': dict(type='CropsPictureHook', num_images=8),
    'table': dict(type='ValidationTableHook'),
    'features': dict(type='FeaturePicturesHook'),
    'report': dict(type='ReportHook'),
}


def default_hooks(cfg: Mapping) -> dict[str, Any]:
    """The complete ``default_hooks`` of a config: its own, and in a pretraining run also ``PRETRAINING``.

    A hook without a type, or with the same type, keeps the arguments that the config does not set.
    """
    own = dict(cfg.get('default_hooks') or {})
    if (cfg.get('default_scope') or SCOPE) != SCOPE or not cfg.get('train_cfg'):
        return own
    return {name: _completed(PRETRAINING.get(name), own.get(name, {})) for name in {**PRETRAINING, **own}}


def _completed(default: Mapping | None, own: Any) -> Any:
    if default is None or not isinstance(own, Mapping):
        return own
    own = dict(own)
    if own.pop('_delete_', False) or own.get('type', default['type']) != default['type']:
        return own
    return {**default, **own}
