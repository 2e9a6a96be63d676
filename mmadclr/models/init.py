"""Weight initialization shared by backbones and heads."""

import torch
from torch import Tensor, nn

SCHEMES = ('dino', 'xavier', 'mocov3')


def init_linear_layers(module: nn.Module, scheme: str) -> None:
    """Initializes every ``nn.Linear`` in ``module`` in place and zeroes its bias.

    ``'dino'``: truncated normal with std .02 (facebookresearch/dino, ``vision_transformer.py``). ``'xavier'``: uniform by
    fan-in and fan-out, for narrow models in which .02 would suppress the signal. ``'mocov3'``: the same, but treats layers
    named ``qkv`` as three separate layers (facebookresearch/moco-v3, ``vits.py``).

    Raises:
        ValueError: Unknown scheme.
    """
    if scheme not in SCHEMES:
        raise ValueError(f'init={scheme!r}: choose one of {", ".join(map(repr, SCHEMES))}')
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            if scheme == 'dino':
                nn.init.trunc_normal_(layer.weight, std=0.02)
            else:
                xavier_uniform(layer.weight, parts=3 if scheme == 'mocov3' and name.endswith('qkv') else 1)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@torch.no_grad()
def init_mocov3_embedding(projection: nn.Conv2d, cls_token: Tensor | None) -> None:
    """Patch projection initialized as a linear layer, and [CLS] close to zero (facebookresearch/moco-v3, ``vits.py``)."""
    xavier_uniform(projection.weight.flatten(1))
    if projection.bias is not None:
        nn.init.zeros_(projection.bias)
    if cls_token is not None:
        nn.init.normal_(cls_token, std=1e-6)


@torch.no_grad()
def xavier_uniform(weight: Tensor, parts: int = 1) -> None:
    """Uniform within sqrt(6 / (inputs + outputs)), separately for each of ``parts`` equal groups of outputs."""
    for part in weight.chunk(parts):
        nn.init.xavier_uniform_(part)
