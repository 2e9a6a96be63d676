"""Weight initialisation shared by backbones and heads."""

from torch import nn


def init_linear_layers(module: nn.Module, scheme: str) -> None:
    """Initialises every ``nn.Linear`` in ``module`` in place and zeroes its bias.

    ``'dino'``: truncated normal of std .02 (facebookresearch/dino, ``vision_transformer.py``). ``'xavier'``: uniform by
    fan-in and fan-out, for models so narrow that .02 stops the signal.

    Raises:
        ValueError: Unknown scheme.
    """
    if scheme not in ('dino', 'xavier'):
        raise ValueError(f"init={scheme!r}: choose 'dino' or 'xavier'")
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            if scheme == 'dino':
                nn.init.trunc_normal_(layer.weight, std=0.02)
            else:
                nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
