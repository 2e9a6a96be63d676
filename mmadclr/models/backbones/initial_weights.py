"""Initial weights of backbones from files: ``init_cfg=dict(type='Pretrained', checkpoint=PATH)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mmadclr.registry import WEIGHT_INITIALIZERS

INIT_KEYS = {'type', 'checkpoint', 'which', 'prefix', 'allow', 'facts'}


def check_init_cfg(init_cfg: Mapping[str, Any] | None, owner: str) -> None:
    """Raises ValueError for an unsupported ``init_cfg`` of the class ``owner``."""
    if init_cfg is None:
        return
    if init_cfg.get('type') != 'Pretrained' or init_cfg.keys() - INIT_KEYS:
        raise ValueError(
            f"init_cfg={dict(init_cfg)}: {owner} accepts dict(type='Pretrained', checkpoint=PATH) with the keys "
            f'{", ".join(sorted(INIT_KEYS))}'
        )


def load_initial_weights(backbone: nn.Module, init_cfg: Mapping[str, Any] | None, unused: Sequence[str] = ()) -> None:
    """Loads the weights that ``init_cfg`` names, if any; ``unused``: tensors that the backbone lacks by design."""
    if init_cfg is not None and init_cfg.get('checkpoint') is not None:
        WEIGHT_INITIALIZERS.build({**init_cfg, 'type': 'mmadclr.Pretrained', 'unused': tuple(unused)})(backbone)
