"""DINO: self-distillation with no labels.

Shape legend: B images, V = 2 global views, L local views, D channels, K prototypes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmadclr.models.backbones.query_vit import ViewGroup, ViTOutput
from mmadclr.models.containers import Network
from mmadclr.models.losses.self_distillation import LossConfig, ProjectedFeatures, SelfDistillationLoss
from mmadclr.models.selfsup.base import SelfDistillation
from mmadclr.registry import MODELS


@MODELS.register_module()
class DINO(SelfDistillation):
    """``L = L_cls``: the student's [CLS] of every view predicts the teacher's [CLS] of every *other* global view.

    Caron et al., ICCV 2021; reproduces facebookresearch/dino, ``main_dino.py``.

    Args:
        loss_cls: Config of the ``SelfDistillationLoss``; its ``out_dim`` is the head's.
        **kwargs: See ``SelfDistillation``.
    """

    uses_queries = False

    def __init__(self, backbone: dict, head: dict, loss_cls: LossConfig | None = None, **kwargs) -> None:
        super().__init__(backbone, head, **kwargs)
        self.loss_cls = self.build_loss(loss_cls)

    def build_loss(self, overrides: dict | None, **defaults) -> SelfDistillationLoss:
        out_dim = self.student['head'].last_layer.weight_v.shape[0]
        return MODELS.build({'type': 'SelfDistillationLoss', 'out_dim': out_dim, **defaults, **(overrides or {})})

    def loss(self, global_views: Tensor, local_views: Tensor, query_crops: Tensor | None = None) -> dict[str, Tensor]:
        """``global_views`` (B, V, 3, H, W), ``local_views`` (B, L, 3, h, w); DINO does not use query crops."""
        with torch.no_grad():
            teacher = self.project(self.teacher, global_views)
        student = self.project(self.student, global_views, local_views)
        return {'loss_cls': self.loss_cls(student, teacher)}

    @staticmethod
    def project(network: Network, *view_groups: Tensor) -> ProjectedFeatures:
        """[CLS] of all views, projected; the backbone runs once per resolution, the head once."""
        groups = [ViewGroup(flat(views), patches=False) for views in view_groups if views.shape[1]]
        return network['head'].project(cls_by_view(network['backbone'].encode(*groups), len(view_groups[0])))


def with_local(views: ViewGroup, local_views: Tensor | None) -> list[ViewGroup]:
    """A group of global views and, if there are any, one of ``local_views`` (B, L, 3, h, w), for [CLS] only."""
    if local_views is None or not local_views.shape[1]:
        return [views]
    return [views, ViewGroup(flat(local_views), patches=False)]


def cls_by_view(outputs: list[ViTOutput], num_images: int) -> Tensor:
    """[CLS] of groups of views, (V*B, D) and (L*B, D), as one (V + L, B, D)."""
    return torch.cat([output.cls for output in outputs]).unflatten(0, (-1, num_images))


def flat(views: Tensor) -> Tensor:
    """(B, V, ...) -> (V*B, ...), view by view."""
    return views.transpose(0, 1).flatten(0, 1)


def by_view(x: Tensor, num_views: int) -> Tensor:
    """(V*B, ...) -> (V, B, ...), the inverse grouping."""
    return x.unflatten(0, (num_views, -1))
