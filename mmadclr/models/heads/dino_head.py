"""DINO's projection head."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmadclr.models.init import init_linear_layers
from mmadclr.models.losses.self_distillation import ProjectedFeatures
from mmadclr.registry import MODELS


class PrototypeLayer(nn.Module):
    """Weight-normed linear layer without bias: ``logits = x (g v / |v|)^T``, one row of ``v`` per prototype.

    Keys ``weight_g`` (K, 1) and ``weight_v`` (K, D) match published checkpoints.
    """

    def __init__(self, in_dim: int, num_prototypes: int, learn_norm: bool) -> None:
        super().__init__()
        linear = nn.Linear(in_dim, num_prototypes, bias=False)
        self.weight_v = linear.weight
        self.weight_g = nn.Parameter(linear.weight.new_ones(num_prototypes, 1), requires_grad=learn_norm)

    def init_weights(self) -> None:
        """torch's default for linear layers, norm 1: DINO initializes this layer before it sets std .02 elsewhere."""
        bound = self.weight_v.shape[1] ** -0.5
        nn.init.uniform_(self.weight_v, -bound, bound)
        nn.init.ones_(self.weight_g)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> logits (..., K); scales the logits by ``g / |v|``, which avoids a second matrix as large as ``v``."""
        return F.linear(x, self.weight_v) * (self.weight_g / self.weight_v.norm(dim=1, keepdim=True))[:, 0]


@MODELS.register_module()
class DINOHead(nn.Module):
    """MLP, L2 normalization, weight-normed prototypes (facebookresearch/dino, ``vision_transformer.py: DINOHead``).

    Args:
        in_dim: Channels D of the backbone.
        out_dim: Number K of prototypes.
        hidden_dim, bottleneck_dim, num_layers: Sizes of the MLP.
        norm_last_layer: Keep the norm of every prototype at 1. True stabilizes larger models, False improves small ones.
        init: Scheme of the MLP, ``'dino'`` or ``'xavier'``.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int = 65536,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        num_layers: int = 3,
        norm_last_layer: bool = True,
        init: str = 'dino',
    ) -> None:
        super().__init__()
        widths = [in_dim] + [hidden_dim] * (num_layers - 1) + [bottleneck_dim]
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1]) if num_layers > 1 else layers[0]
        self.last_layer = PrototypeLayer(bottleneck_dim, out_dim, learn_norm=not norm_last_layer)
        self.init = init
        self.init_weights()

    def init_weights(self) -> None:
        init_linear_layers(self.mlp, self.init)
        for module in self.modules():
            if isinstance(module, PrototypeLayer):
                module.init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Features (..., D) -> logits (..., K)."""
        return self.project(x).logits()

    def project(self, x: Tensor) -> ProjectedFeatures:
        """Features (..., D) -> L2-normalized inputs of the prototype layer, and that layer."""
        return ProjectedFeatures(F.normalize(self.mlp(x), dim=-1), self.last_layer)


@MODELS.register_module()
class IBOTHead(DINOHead):
    """DINO's head with separate prototypes for patches after the MLP shared with [CLS].

    bytedance/ibot, ``models/head.py: iBOTHead`` with ``shared_head=False``. With True, as in all published models,
    patches share the prototypes of [CLS]: use a plain ``DINOHead``.

    Args:
        patch_out_dim: Number of patch prototypes, ``last_layer2``.
        **kwargs: See ``DINOHead``.
    """

    def __init__(
        self, in_dim: int, patch_out_dim: int, bottleneck_dim: int = 256, norm_last_layer: bool = True, **kwargs
    ) -> None:
        super().__init__(in_dim, bottleneck_dim=bottleneck_dim, norm_last_layer=norm_last_layer, **kwargs)
        self.last_layer2 = PrototypeLayer(bottleneck_dim, patch_out_dim, learn_norm=not norm_last_layer)


def patch_prototypes(head: DINOHead) -> PrototypeLayer:
    """The prototypes for patches: separate ones, or those of [CLS]."""
    return getattr(head, 'last_layer2', head.last_layer)


def project_jointly(head: DINOHead, *groups: Tensor) -> list[ProjectedFeatures]:
    """Projects groups of tokens (..., D) as ``head.project`` does, with one MLP call over all rows."""
    rows = torch.cat([group.flatten(0, -2) for group in groups])
    features, prototypes = head.project(rows)
    parts = features.split([group.shape[:-1].numel() for group in groups])
    return [ProjectedFeatures(part.unflatten(0, g.shape[:-1]), prototypes) for part, g in zip(parts, groups, strict=True)]
