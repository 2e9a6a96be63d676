"""Implements ``init_cfg=dict(type='Pretrained', checkpoint=PATH)`` for backbones."""

from __future__ import annotations

from torch import nn

from mmadclr.checkpoint.weights import load_weights
from mmadclr.registry import WEIGHT_INITIALIZERS


@WEIGHT_INITIALIZERS.register_module('Pretrained')
class Pretrained:
    """Initializes a backbone from a file or folder: :func:`mmadclr.checkpoint.load_weights` as mmengine's initializer.

    Models refer to it only by its registry name, so that they do not depend on file reading.
    """

    def __init__(self, checkpoint: str, **settings) -> None:
        self.checkpoint = checkpoint
        self.settings = settings

    def __call__(self, backbone: nn.Module) -> None:
        load_weights(backbone, self.checkpoint, **self.settings)
