"""ADCLR: DINO plus a contrastive term on query tokens.

Shape legend: B images, V = 2 global views, L local views, Q query crops, T tokens per crop, D channels, K prototypes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmadclr.models.backbones.query_vit import ViewGroup
from mmadclr.models.containers import Network
from mmadclr.models.heads.dino_head import project_jointly
from mmadclr.models.losses.self_distillation import LossConfig, ProjectedFeatures
from mmadclr.models.selfsup.dino import DINO, by_view, cls_by_view, flat, with_local
from mmadclr.models.selfsup.queries import QueryTerm
from mmadclr.registry import MODELS


@MODELS.register_module()
class ADCLR(QueryTerm, DINO):
    """``L = L_cls + lambda L_query``: DINO, and the same cross-view loss on every query token.

    Zhang et al., *Patch-level contrasting without patch correspondence for accurate and dense contrastive representation
    learning*, ICLR 2023. The same Q query crops are added to both global views as extra tokens; image tokens never attend to
    them (see ``QueryViT``). The student's token of crop j in view v predicts the teacher's token of crop j in the *other*
    view. With Q = 0 this is DINO.

    The authors' released code (Sherrylone/PQCL) trains a later method, and the paper's hyperparameters are not public:
    what the paper does not specify follows our reconstruction, with one option each.

    Args:
        query_weight: lambda; 1 in the released code.
        loss_query: Config of the query loss, which has its own center.
        shared_head: Query tokens use the head of [CLS], so that the method adds no parameters, as the paper states; or
            a second head of the same sizes.
        teacher_queries: ``'with_view'`` (the teacher's query tokens attend to its view, so targets differ between views) or
            ``'alone'`` (each crop is encoded separately as a small image, with its patch tokens as targets: released code).
        **kwargs: See ``DINO``.

    Raises:
        ValueError: Unknown ``teacher_queries``.
    """

    def __init__(
        self,
        backbone: dict,
        head: dict,
        query_weight: float = 1.0,
        loss_query: LossConfig | None = None,
        shared_head: bool = True,
        teacher_queries: str = 'with_view',
        **kwargs,
    ) -> None:
        extra_heads = {} if shared_head else {'query_head': head}
        super().__init__(backbone, head, extra_heads=extra_heads, **kwargs)
        self.add_query_term(query_weight, loss_query, teacher_queries)

    def loss(  # type: ignore[override]  # its samples have query crops
        self, global_views: Tensor, local_views: Tensor, query_crops: Tensor
    ) -> dict[str, Tensor]:
        """``global_views`` (B, V, 3, H, W), ``local_views`` (B, L, 3, h, w), ``query_crops`` (B, V, Q, 3, q, q)."""
        if query_crops.shape[2] == 0:
            return super().loss(global_views, local_views)
        with torch.no_grad():
            if self.teacher_queries == 'with_view':
                teacher_cls, teacher_query = self.project_with_queries(self.teacher, query_crops, global_views)
            else:
                teacher_cls, teacher_query = self.project(self.teacher, global_views), self.project_alone(query_crops)
        student_cls, student_query = self.project_with_queries(self.student, query_crops, global_views, local_views)
        return {'loss_cls': self.loss_cls(student_cls, teacher_cls), **self.query_term(student_query, teacher_query)}

    @staticmethod
    def project_with_queries(
        network: Network, query_crops: Tensor, global_views: Tensor, local_views: Tensor | None = None
    ) -> tuple[ProjectedFeatures, ProjectedFeatures]:
        """Projected [CLS] of all V + L views, and the V * B * Q*T query tokens; local views have no queries."""
        groups = with_local(ViewGroup(flat(global_views), flat(query_crops), patches=False), local_views)
        outputs = network['backbone'].encode(*groups)
        cls = cls_by_view(outputs, len(global_views))
        queries = by_view(outputs[0].queries.flatten(1, 2), global_views.shape[1])
        if 'query_head' in network:
            return network['head'].project(cls), network['query_head'].project(queries)
        of_cls, of_queries = project_jointly(network['head'], cls, queries)
        return of_cls, of_queries
