"""What ``init_cfg=dict(type='Pretrained', checkpoint=PATH)`` of a backbone does."""

from __future__ import annotations

from torch import nn

from mmadclr.checkpoint.weights import load_weights
from mmadclr.registry import WEIGHT_INITIALIZERS


@WEIGHT_INITIALIZERS.register_module('Pretrained')
class Pretrained:
    """Fills a backbone with weights of a file or folder: :func:`mmadclr.checkpoint.load_weights` as mmengine's initializer.

    Models know it by its name in the registry alone, so that they do without the reading of files.
    """

    def __init__(self, checkpoint: str, **settings) -> None:
        self.checkpoint = checkpoint
        self.settings = settings

    def __call__(self, backbone: nn.Module) -> None:
        load_weights(backbone, self.checkpoint, **self.settings)
