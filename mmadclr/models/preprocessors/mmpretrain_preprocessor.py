"""Our views for mmpretrain's self-supervised methods."""

from __future__ import annotations

from mmengine.structures import BaseDataElement

from mmadclr.models.preprocessors.view_preprocessor import ViewPreprocessor
from mmadclr.registry import MODELS


@MODELS.register_module()
class MMPretrainPreprocessor(ViewPreprocessor):
    """``ViewPreprocessor`` whose output has the names expected by mmpretrain's methods; drops local views and queries.

    Args:
        num_views: 2 for methods that compare views (MoCo v3, DenseCL), 1 for those that reconstruct one (MAE, SimMIM).
        **kwargs: See ``ViewPreprocessor``.

    Raises:
        ValueError: ``num_views`` is neither.
    """

    def __init__(self, num_views: int, **kwargs) -> None:
        super().__init__(**kwargs)
        if num_views not in (1, 2):
            raise ValueError(f'MMPretrainPreprocessor: num_views={num_views} must be 1 or 2, the number of global views')
        self.num_views = num_views

    def forward(self, data: dict, training: bool = False) -> dict:
        """Keyword arguments of the model: ``inputs``, views (B, 3, H, W), as a list if there are two; ``data_samples``.

        If samples have masks, data samples contain those of the first view as ``mask`` (h, w), 1 where masked.
        """
        result = super().forward(data, training)
        if 'images' in result:
            return {'inputs': result['images']}
        views = result['views']['global_views'][:, : self.num_views].unbind(1)
        masks = result['views'].get('masks')
        samples = None if masks is None else [BaseDataElement(mask=mask) for mask in masks.hidden[:, 0].to(views[0])]
        return {
            'inputs': views[0] if self.num_views == 1 else list(views),
            'data_samples': samples,
        }
