"""ADCLR: DINO plus a contrastive term on query tokens.

Shape legend: B images, V = 2 global views, L local views, Q query crops, T tokens per crop, D channels, K prototypes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmadclr.models.selfsup.dino import DINO, by_view, flat
from mmadclr.registry import MODELS


@MODELS.register_module()
class ADCLR(DINO):
    """``L = L_cls + lambda L_query``: DINO, and the same cross-view loss on every query token.

    Zhang et al., *Patch-level contrasting without patch correspondence for accurate and dense contrastive representation
    learning*, ICLR 2023. The same Q query crops join both global views as extra tokens; image tokens never read them
    (see ``QueryViT``). The student's token of crop j in view v predicts the teacher's token of crop j in the *other*
    view. With Q = 0 or without a query loss this is DINO.

    The authors' released code trains a later method and the paper's hyper-parameters are not public: what is not stated
    there follows our reconstruction, one option each.

    Args:
        query_weight: lambda; 1 in the released code of the authors.
        loss_query: Config of the query loss, with a centre of its own. Query tokens share the head of [CLS], so the
            method adds no parameter.
        **kwargs: See ``DINO``.
    """

    def __init__(
        self,
        backbone: dict,
        head: dict,
        query_weight: float = 1.0,
        loss_query: dict | None = None,
        **kwargs,
    ) -> None:
        super().__init__(backbone, head, **kwargs)
        self.query_weight = query_weight
        self.loss_query = self.build_loss(loss_query)

    def loss(self, global_views: Tensor, local_views: Tensor, query_crops: Tensor) -> dict[str, Tensor]:
        """``global_views`` (B, V, 3, H, W), ``local_views`` (B, L, 3, h, w), ``query_crops`` (B, V, Q, 3, q, q)."""
        if query_crops.shape[2] == 0:
            return super().loss(global_views, local_views)
        with torch.no_grad():
            teacher_cls, teacher_query = self.project_with_queries(self.teacher, query_crops, global_views)
        student_cls, student_query = self.project_with_queries(self.student, query_crops, global_views, local_views)
        return {
            'loss_cls': self.loss_cls(student_cls, teacher_cls),
            'loss_query': self.query_weight * self.loss_query(student_query, teacher_query),
        }

    @staticmethod
    def project_with_queries(
        network, query_crops: Tensor, global_views: Tensor, local_views: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """[CLS] logits (V + L, B, K) and query logits (V, B, Q*T, K); local views carry no queries."""
        num_views = global_views.shape[1]
        output = network['backbone'](flat(global_views), flat(query_crops))
        cls = by_view(output.cls, num_views)
        if local_views is not None and local_views.shape[1]:
            cls = torch.cat((cls, by_view(network['backbone'](flat(local_views)).cls, local_views.shape[1])))
        queries = by_view(output.queries.flatten(1, 2), num_views)
        # One pass through the head: matrix products over all rows, split again afterwards.
        logits = network['head'](torch.cat((cls.flatten(0, 1), queries.flatten(0, 2))))
        cls_logits, query_logits = logits.split((cls.shape[0] * cls.shape[1], queries[..., 0].numel()))
        return cls_logits.unflatten(0, cls.shape[:2]), query_logits.unflatten(0, queries.shape[:3])
