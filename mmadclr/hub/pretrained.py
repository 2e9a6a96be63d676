"""Implements ``init_cfg=dict(type='Pretrained', checkpoint=PATH)`` for backbones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmadclr.checkpoint.layouts import BackboneWeights, tensors_by_path
from mmadclr.checkpoint.names import timm_name, unwrapped_name
from mmadclr.checkpoint.reading import read_checkpoint
from mmadclr.checkpoint.weights import check_patterns, fill, load_weights, pick_backbone
from mmadclr.registry import WEIGHT_INITIALIZERS

MASK_TOKEN = 'mask_token'
OF_TEACHER = re.compile(r'(^|\.)teacher(?=\.)')
MASK_TOKEN_NAMES = (MASK_TOKEN, 'masked_embed')  # DINOv2, timm, transformers; iBOT


@WEIGHT_INITIALIZERS.register_module('Pretrained')
class Pretrained:
    """Initializes a backbone from a file or folder: :func:`mmadclr.checkpoint.load_weights` as mmengine's initializer.

    A backbone with a mask token gets that of the file, or keeps its own if the file has none. Models refer to this class
    only by its registry name, so that they do not depend on file reading.
    """

    def __init__(self, checkpoint: str, which: str = 'teacher', prefix: str | None = None, **settings) -> None:
        self.checkpoint, self.which, self.prefix = checkpoint, which, prefix
        self.settings = settings

    def __call__(self, backbone: nn.Module) -> None:
        if getattr(backbone, MASK_TOKEN, None) is None:
            load_weights(backbone, self.checkpoint, self.which, self.prefix, **self.settings)
        else:
            self.load_with_mask_token(backbone, **self.settings)

    def load_with_mask_token(
        self, backbone: Any, allow: Sequence[str] = (), unused: Sequence[str] = (), facts: Mapping | None = None
    ) -> None:
        """As :func:`load_weights`, and with the mask token of the file, which may be missing."""
        check_patterns(allow)
        checkpoint = read_checkpoint(self.checkpoint)
        weights = pick_backbone(checkpoint, self.checkpoint, self.which, self.prefix, facts)
        token = mask_token(checkpoint, weights)
        state = weights.state if token is None else {**weights.state, MASK_TOKEN: token}
        fill(backbone, weights._replace(state=state), self.checkpoint, (*allow, MASK_TOKEN), unused)


def trained_mask_token(checkpoint: Mapping, weights: BackboneWeights) -> Tensor | None:
    """As :func:`mask_token`, but None if it is zero, as one that was never trained."""
    token = mask_token(checkpoint, weights)
    return token if token is not None and token.any() else None


def mask_token(checkpoint: Mapping, weights: BackboneWeights) -> Tensor | None:
    """The mask token (1, D) next to a backbone of a checkpoint, or for a teacher without one that of its student.

    None if the file has none. That of a masked autoencoder belongs to its decoder, and does not count.
    """
    tensors = {unwrapped_name(name): tensor for name, tensor in tensors_by_path(checkpoint)}
    prefix = unwrapped_name(weights.prefix)
    for place in dict.fromkeys((prefix, OF_TEACHER.sub(r'\1student', prefix))):
        beside = {name.removeprefix(place): tensor for name, tensor in tensors.items() if name.startswith(place)}
        if not any(name.startswith('decoder') for name in beside):
            found = (tensor for name, tensor in beside.items() if timm_name(name) in MASK_TOKEN_NAMES)
            token = next(found, None)
            if token is not None:
                return token.float().reshape(1, -1)
    return None
