"""Photometric augmentation and normalisation of a batch on the device."""

from __future__ import annotations

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from mmadclr.datasets.photometric import JITTER, column
from mmadclr.models.preprocessors import photometric as ops
from mmadclr.registry import MODELS

JITTER_OPS = tuple(getattr(ops, f'adjust_{name}') for name in JITTER)


@MODELS.register_module()
class ViewPreprocessor(BaseDataPreprocessor):
    """uint8 crops and their drawn parameters -> normalised float views, in the order of DINO's pipeline.

    Which images an operation touches is worked out from the parameters while they are still on the CPU, so nothing
    here waits for the device.

    Args:
        mean, std: Of the training pixels, in [0, 255].
    """

    def __init__(
        self,
        mean: tuple[float, float, float] = (123.675, 116.28, 103.53),
        std: tuple[float, float, float] = (58.395, 57.12, 57.375),
    ) -> None:
        super().__init__(non_blocking=True)
        self.register_buffer('mean', torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """A collated batch -> keyword arguments of the model.

        Training samples become ``views``: ``global_views`` (B, V, 3, H, W), ``local_views`` (B, L, 3, h, w) and
        ``query_crops`` (B, V, Q, 3, q, q). Evaluation samples become ``images`` (B, 3, H, W).
        """
        if 'images' in data:
            return {'images': self.normalise(self._to_device(data['images']).float())}
        crops = data['query_views'].unsqueeze(1)  # the same pixels for every draw of colours
        draws = data['query_photometric']
        queries = self.augment(crops.expand(-1, draws.shape[1], -1, -1, -1, -1), draws)
        return {
            'views': {
                'global_views': self.augment(data['global_views'], data['global_photometric']),
                'local_views': self.augment(data['local_views'], data['local_photometric']),
                'query_crops': queries.expand(-1, data['global_views'].shape[1], -1, -1, -1, -1),
            }
        }

    def augment(self, views: Tensor, params: Tensor) -> Tensor:
        """uint8 views (..., 3, H, W) with parameters (..., NUM_PARAMS) -> normalised float views of the same shape."""
        leading = views.shape[:-3]
        x = self._to_device(views.reshape(-1, *views.shape[-3:])).to(self.mean.dtype)
        params = params.flatten(0, -2)
        x = self._on_rows(x, column(params, 'flip') > 0, lambda part, _: part.flip(-1))
        for step in range(len(JITTER)):
            chosen = column(params, f'order_{step}')
            for index, (name, op) in enumerate(zip(JITTER, JITTER_OPS, strict=True)):
                x = self._on_rows(x, chosen == index, op, column(params, name))
        x = self._on_rows(x, column(params, 'grey') > 0, lambda part, _: ops.to_grey(part).expand_as(part))
        radius = column(params, 'blur_radius')
        x = self._on_rows(x, radius > 0, lambda part, _: ops.gaussian_blur(part, radius[radius > 0]))
        x = self._on_rows(x, column(params, 'solarise') > 0, lambda part, _: ops.solarise(part))
        return self.normalise(x).reshape(*leading, *views.shape[-3:])

    def normalise(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def _on_rows(self, x: Tensor, where: Tensor, op, values: Tensor | None = None) -> Tensor:
        """``op(images, values)`` on the images that ``where`` (N,), a CPU tensor, selects; writes into ``x``."""
        rows = where.nonzero().flatten()
        if len(rows) == 0:
            return x
        selected = None if values is None else self._to_device(values[rows])
        rows = self._to_device(rows)
        return x.index_copy_(0, rows, op(x.index_select(0, rows), selected).to(x.dtype))

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.mean.device, non_blocking=True)
