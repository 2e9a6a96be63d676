"""MoCo v3's projection and prediction head."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from mmadclr.registry import MODELS


@MODELS.register_module()
class MLPHead(nn.Module):
    """Linear layers without bias, each with a batch norm, and ReLU in between (facebookresearch/moco-v3, ``builder.py``).

    On GPUs, norms use the statistics of all processes; the last norm has neither scale nor shift.

    Args:
        in_dim: Channels of the tokens.
        out_dim, hidden_dim, num_layers: Sizes of the MLP.

    Raises:
        ValueError: No layers.
    """

    def __init__(self, in_dim: int, out_dim: int = 256, hidden_dim: int = 4096, num_layers: int = 3) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f'MLPHead: num_layers={num_layers} must be at least 1')
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise([in_dim] + [hidden_dim] * (num_layers - 1)):
            layers += [nn.Linear(width_in, width_out, bias=False), nn.SyncBatchNorm(width_out), nn.ReLU(inplace=True)]
        width = hidden_dim if num_layers > 1 else in_dim
        self.mlp = nn.Sequential(*layers, nn.Linear(width, out_dim, bias=False), nn.SyncBatchNorm(out_dim, affine=False))
        self.out_dim = out_dim

    def init_weights(self) -> None:
        """Re-initializes with torch's defaults."""
        for layer in self.mlp:
            if isinstance(layer, (nn.Linear, nn.SyncBatchNorm)):
                layer.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Rows (M, D) -> (M, out_dim)."""
        return self.mlp(x)

    project = forward  # method that ``shard_model`` requires of every part except the backbone
