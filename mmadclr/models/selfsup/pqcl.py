"""PQCL: iBOT with positional queries, which predict the content of a crop from its position.

Shape legend: B images, V = 2 global views, L local views, Q query crops, T = m * m patches per crop, D channels.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from mmadclr.models.losses.self_distillation import LossConfig
from mmadclr.models.patch_masks import PatchMasks
from mmadclr.models.positions import patch_places
from mmadclr.models.selfsup.dino import flat
from mmadclr.models.selfsup.ibot import IBOT
from mmadclr.models.selfsup.queries import QueryTerm
from mmadclr.registry import MODELS, ConfigOf


@MODELS.register_module()
class PQCL(QueryTerm, IBOT):
    """``L = lambda_1 L_cls + lambda_2 L_patch + lambda_3 L_query``: iBOT, and the content at positions in and around a view.

    Zhang et al., *Patch-level contrastive learning via positional query for visual pre-training*, ICML 2023; as in
    Sherrylone/PQCL, ``main_pqcl.py``. The student's query tokens are mask tokens with the position code of a crop's
    patch, relative to the view; the teacher encodes the crop separately as a small image. Its patches are the targets of the
    queries in both views. All tokens share the same prototypes.

    That code differs from iBOT in two more points, both set in configs: it has no local views, and both global views
    use the color augmentation of the first. We differ from that code in one: its blocks (``models/pos_transformer.py``) draw
    drop-path decisions separately for image tokens and queries of a sample; ours
    (``QueryBlock``) share them.

    Args:
        backbone: Config of a ``PositionQueryViT``.
        data_preprocessor: Config of a ``QueryBoxPreprocessor`` (the default), which defines how flips are handled.
        query_weight: lambda_3.
        loss_query: Config of the query loss, which has its own center and temperatures.
        **kwargs: See ``IBOT``.

    Raises:
        ValueError: From ``loss``, if masks, query crops or their boxes are missing.
    """

    def __init__(
        self,
        backbone: dict,
        head: dict,
        data_preprocessor: Annotated[dict, ConfigOf('QueryBoxPreprocessor')] | None = None,
        query_weight: float = 1.0,
        loss_query: LossConfig | None = None,
        **kwargs,
    ) -> None:
        data_preprocessor = {'type': 'QueryBoxPreprocessor', **(data_preprocessor or {})}
        super().__init__(backbone, head, data_preprocessor=data_preprocessor, **kwargs)
        self.add_query_term(query_weight, loss_query, teacher_queries='alone', pairing='same-view')

    def loss(  # type: ignore[override]  # its samples have query crops
        self,
        global_views: Tensor,
        local_views: Tensor,
        query_crops: Tensor,
        masks: PatchMasks | None = None,
        query_boxes: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """``global_views`` (B, V, 3, H, W), their ``masks`` of (B, V, h, w) patches, ``local_views`` (B, L, 3, H', W'),
        ``query_crops`` (B, V, Q, 3, q, q) and their positions in the views, ``query_boxes`` (B, V, Q, 4).
        """
        masks = self.check_masks(masks)
        height, width = masks.hidden.shape[2:]
        places = self.places(query_crops, query_boxes, grid=(height, width))
        with torch.no_grad():
            teacher = self.project_with_patches(self.teacher, global_views)
            teacher_query = self.project_alone(
                query_crops[:, :1]
            )  # one target, independent of the colors of the views' crops
        *student, student_query = self.project_with_patches(
            self.student, global_views, local_views, masks, queries=flat(places)
        )
        num_views = global_views.shape[1]
        teacher_query = teacher_query._replace(features=teacher_query.features.expand(num_views, -1, -1, -1))
        return self.terms(*student, *teacher, masks=masks) | self.query_term(student_query, teacher_query)

    def places(self, query_crops: Tensor, query_boxes: Tensor | None, grid: tuple[int, int]) -> Tensor:
        """Positions (B, V, Q, T, 2) in patches of the views, which have a ``grid`` (h, w) of them."""
        if query_crops.shape[2] == 0:
            raise ValueError('PQCL: the samples have no query crops; set num_query of MultiCrop, or train IBOT')
        if query_boxes is None:
            raise ValueError(
                "PQCL: the samples have no query_boxes; use data_preprocessor=dict(type='QueryBoxPreprocessor')"
            )
        return patch_places(query_boxes, query_crops.shape[-1] // self.student['backbone'].patch_size, grid)
