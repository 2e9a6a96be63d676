"""iBOT with ADCLR's query term.

Shape legend: B images, V = 2 global views, L local views, Q query crops, h * w patches per view.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmadclr.models.losses.self_distillation import LossConfig
from mmadclr.models.patch_masks import PatchMasks
from mmadclr.models.selfsup.dino import flat
from mmadclr.models.selfsup.ibot import IBOT
from mmadclr.models.selfsup.queries import QueryTerm
from mmadclr.registry import MODELS


@MODELS.register_module()
class QueryIBOT(QueryTerm, IBOT):
    """``L = lambda_1 L_cls + lambda_2 L_patch + lambda L_query``: iBOT plus ADCLR's term, which its paper calls a plug-in.

    The student's query tokens attend to masked views. They use the prototypes of [CLS]; with Q = 0 this is iBOT.

    Args:
        query_weight: lambda.
        loss_query: Config of the query loss, which has its own center.
        teacher_queries: See ``ADCLR``.
        **kwargs: See ``IBOT``.

    Raises:
        ValueError: Unknown ``teacher_queries``.
    """

    def __init__(
        self,
        backbone: dict,
        head: dict,
        query_weight: float = 1.0,
        loss_query: LossConfig | None = None,
        teacher_queries: str = 'with_view',
        **kwargs,
    ) -> None:
        super().__init__(backbone, head, **kwargs)
        self.add_query_term(query_weight, loss_query, teacher_queries)

    def loss(  # type: ignore[override]  # its samples have query crops
        self, global_views: Tensor, local_views: Tensor, query_crops: Tensor, masks: PatchMasks | None = None
    ) -> dict[str, Tensor]:
        """``global_views`` (B, V, 3, H, W), their ``masks`` of (B, V, h, w) patches, ``local_views`` (B, L, 3, H', W') and
        ``query_crops`` (B, V, Q, 3, q, q)."""
        if query_crops.shape[2] == 0:
            return super().loss(global_views, local_views, masks=masks)
        masks = self.check_masks(masks)
        queries = flat(query_crops)
        with torch.no_grad():
            if self.teacher_queries == 'with_view':
                *teacher, teacher_query = self.project_with_patches(self.teacher, global_views, queries=queries)
            else:
                teacher = [*self.project_with_patches(self.teacher, global_views)]
                teacher_query = self.project_alone(query_crops)
        *student, student_query = self.project_with_patches(self.student, global_views, local_views, masks, queries)
        return self.terms(*student, *teacher, masks=masks) | self.query_term(student_query, teacher_query)
