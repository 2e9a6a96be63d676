"""Adds the positions of query crops to the views."""

from __future__ import annotations

import torch
from torch import Tensor

from mmadclr.datasets.photometric_recipe import column
from mmadclr.models.positions import boxes_in_views
from mmadclr.models.preprocessors.plan import send_tensors
from mmadclr.models.preprocessors.view_preprocessor import ViewPreprocessor
from mmadclr.registry import MODELS


@MODELS.register_module()
class QueryBoxPreprocessor(ViewPreprocessor):
    """``ViewPreprocessor`` that also returns ``query_boxes`` (B, V, Q, 4) of ``boxes_in_views``, for PQCL.

    Args:
        flips: Flip positions in flipped views. False: as in Sherrylone/PQCL, whose code ignores flips,
            so that half of the queries refer to the wrong side.
        **kwargs: See ``ViewPreprocessor``.
    """

    def __init__(self, flips: bool = True, **kwargs) -> None:
        super().__init__(**kwargs)
        self.flips = flips

    def forward(self, data: dict, training: bool = False) -> dict:
        """As ``ViewPreprocessor``, with ``query_boxes`` among the views of training samples."""
        result = super().forward(data, training)
        if 'views' in result:
            boxes = boxes_in_views(data['query_boxes'].cpu(), data['global_boxes'].cpu(), self.mirrored(data))
            result['views']['query_boxes'] = send_tensors([boxes], self.mean.device)[0]
        return result

    def mirrored(self, data: dict) -> Tensor:
        """(B, V, Q, 2): whether views and crops are flipped; all False without ``flips``."""
        views = column(data['global_photometric'], 'flip').unsqueeze(2)
        crops = column(data['query_photometric'][:, :1], 'flip')
        pairs = torch.stack(torch.broadcast_tensors(views, crops), dim=-1)
        return pairs if self.flips else torch.zeros_like(pairs)
