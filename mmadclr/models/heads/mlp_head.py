"""Projection and prediction head of MoCo v3."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from mmadclr.registry import MODELS


@MODELS.register_module()
class MLPHead(nn.Module):
    """Linear layers without bias, each with a batch norm, and ReLU between them (facebookresearch/moco-v3, ``builder.py``).

    The norms work on the statistics of all processes on GPUs; the last has neither scale nor shift.

    Args:
        in_dim: Channels of the tokens.
        out_dim, hidden_dim, num_layers: Sizes of the MLP.

    Raises:
        ValueError: No layers.
    """

    def __init__(self, in_dim: int, out_dim: int = 256, hidden_dim: int = 4096, num_layers: int = 3) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f'MLPHead: num_layers={num_layers}: there has to be a layer')
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise([in_dim] + [hidden_dim] * (num_layers - 1)):
            layers += [nn.Linear(width_in, width_out, bias=False), nn.SyncBatchNorm(width_out), nn.ReLU(inplace=True)]
        width = hidden_dim if num_layers > 1 else in_dim
        self.mlp = nn.Sequential(*layers, nn.Linear(width, out_dim, bias=False), nn.SyncBatchNorm(out_dim, affine=False))
        self.out_dim = out_dim

    def init_weights(self) -> None:
        """torch's defaults, drawn anew."""
        for layer in self.mlp:
            if isinstance(layer, (nn.Linear, nn.SyncBatchNorm)):
                layer.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Rows (M, D) -> (M, out_dim)."""
        return self.mlp(x)

    project = forward  # the method that ``shard_model`` expects of every part beside the backbone
