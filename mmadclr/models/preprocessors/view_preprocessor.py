"""Photometric augmentation and normalization of a batch on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from mmadclr.models.patch_masks import PatchMasks
from mmadclr.models.preprocessors import photometric_float_ops, photometric_ops
from mmadclr.models.preprocessors.packed_views import with_views
from mmadclr.models.preprocessors.photometric_fused import Draws, FusedColors
from mmadclr.models.preprocessors.plan import Part, Step, checked, plan, send, send_tensors
from mmadclr.registry import MODELS

ARITHMETIC = {'float': photometric_float_ops, 'pillow': photometric_ops}
FEW_ROWS = 16  # up to this number, storing rows one by one is faster than by index


@MODELS.register_module()
class ViewPreprocessor(BaseDataPreprocessor):
    """uint8 crops and their drawn parameters -> normalized float32 views, in the order of DINO's pipeline.

    The images of each operation are determined from the parameters, which stay on the CPU, so there is no device
    synchronization. uint8 crops may be on the CPU or the device, in any memory layout.

    Args:
        mean, std: Of the training pixels, in [0, 255].
        arithmetic: ``'float'`` uses single precision without rounding (see :mod:`.photometric_float_ops` for differences
            from Pillow); ``'pillow'`` reproduces Pillow's rounding to 8 bits after every operation, exactly but slower.

    Raises:
        ValueError: Unknown ``arithmetic``.
    """

    cuts_crops = True  # supports MultiCrop(backend='device'), which sends full images
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] = (123.675, 116.28, 103.53),
        std: Sequence[float] = (58.395, 57.12, 57.375),
        arithmetic: str = 'float',
    ) -> None:
        super().__init__(non_blocking=True)
        if arithmetic not in ARITHMETIC:
            raise ValueError(
                f'ViewPreprocessor: arithmetic={arithmetic!r}: choose one of {", ".join(map(repr, ARITHMETIC))}'
            )
        self.arithmetic = arithmetic
        self.fused: FusedColors | None = None
        self.register_buffer('mean', torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """A collated batch -> keyword arguments of the model.

        Training samples become ``views``: ``global_views`` (B, V, 3, H, W), ``local_views`` (B, L, 3, h, w) and
        ``query_crops`` (B, V, Q, 3, q, q) and, if samples have ``masks`` (B, V, h, w), these with the rows of the
        masked patches (``PatchMasks``). Evaluation samples become ``images`` (B, 3, H, W). Full images
        (``MultiCrop(backend='device')``) are cropped first.
        """
        if 'images' in data:
            return {'images': self.normalize(self._to_device(data['images']).float())}
        data = with_views(data, self.mean.device)
        crops = self._to_device(data['query_views']).unsqueeze(1)  # same pixels for every color draw
        draws = data['query_photometric']
        crops = crops.expand(-1, draws.shape[1], -1, -1, -1, -1)
        pairs = [(data[f'{kind}_views'], data[f'{kind}_photometric']) for kind in ('global', 'local')]
        global_views, local_views, queries = self._augment([*pairs, (crops, draws)])
        queries = queries.expand(-1, global_views.shape[1], -1, -1, -1, -1)
        views: dict[str, Tensor | PatchMasks]
        views = {'global_views': global_views, 'local_views': local_views, 'query_crops': queries}
        if 'masks' in data:
            views['masks'] = PatchMasks(*send_tensors(PatchMasks.of(data['masks']), self.mean.device))
        return {'views': views}

    def compile_colors(self, **options) -> None:
        """Compiles all of ``arithmetic='float'`` but the blur; see ``torch.compile``. Same views up to rounding."""
        if self.arithmetic == 'float':
            self.fused = FusedColors.compiled(**options)

    def __getstate__(self) -> dict:
        """Without compiled code, like the compiled calls of other modules."""
        return {**super().__getstate__(), 'fused': None}

    def augment(self, views: Tensor, params: Tensor) -> Tensor:
        """uint8 views (..., 3, H, W) with parameters (..., NUM_PARAMS) -> normalized float views of the same shape.

        Raises:
            ValueError: The parameters are not on the CPU, or have another length.
        """
        return self._augment([(views, params)])[0]

    def normalize(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def _augment(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """:meth:`augment` for several pairs, whose parameters are sent to the device together."""
        device = self.mean.device
        if self.fused is not None:
            return self._augment_fused(self.fused, pairs)
        plans = [
            plan(checked(params), views[..., 0, :, :].shape[-2:].numel(), device.type == 'cpu') for views, params in pairs
        ]
        with torch.no_grad(), _full_precision(device.type):
            return [self._run(views, parts) for (views, _), parts in zip(pairs, send(plans, device), strict=True)]

    def _augment_fused(self, fused: FusedColors, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        draws = [Draws.of(checked(params)) for _, params in pairs]
        sent = iter(send_tensors([tensor for draw in draws for tensor in draw if tensor is not None], self.mean.device))
        draws = [Draws._make(None if tensor is None else next(sent) for tensor in draw) for draw in draws]
        with torch.no_grad(), _full_precision(self.mean.device.type):
            return [
                fused(self._to_device(views).flatten(0, -4), draw, self.mean, self.std).view(views.shape)
                if views.numel()
                else self._to_device(views).float()
                for (views, _), draw in zip(pairs, draws, strict=True)
            ]

    def _run(self, views: Tensor, parts: list[Part]) -> Tensor:
        flat = self._to_device(views).flatten(0, -4)
        if len(parts) == 1:
            return self._run_steps(flat, parts[0].steps).view(views.shape)
        result = torch.empty(flat.shape, dtype=self.mean.dtype, device=flat.device)
        for part in parts:
            _store(result, part.rows, self._run_steps(flat.index_select(0, part.rows), part.steps))
        return result.view(views.shape)

    def _run_steps(self, pixels: Tensor, steps: list[Step]) -> Tensor:
        """uint8 images (N, 3, H, W) -> normalized float images."""
        x = torch.empty(pixels.shape, dtype=self.mean.dtype, device=pixels.device).copy_(pixels)
        for step in steps:
            x = _apply(self._operation(step.name), x, step.rows, () if step.values is None else (step.values,))
        return x.sub_(self.mean).div_(self.std)

    def _operation(self, name: str) -> Callable[..., Tensor]:
        operations = ARITHMETIC[self.arithmetic]
        if name == 'flip':
            return lambda x: x.flip(-1)
        if name == 'gray':
            return lambda x: x.copy_(operations.to_gray(x))
        return getattr(operations, name)

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.mean.device, non_blocking=True)


def _full_precision(device_type: str) -> torch.autocast:
    """Disables the autocast of a training step, which would compute the blur with 8-bit precision."""
    return torch.autocast(device_type if torch.amp.is_autocast_available(device_type) else 'cpu', enabled=False)


def _apply(operation: Callable[..., Tensor], x: Tensor, rows: slice | Tensor | None, values: tuple) -> Tensor:
    """``operation`` on the images selected by ``rows``; others are unchanged. May overwrite ``x``."""
    if rows is None:
        return operation(x, *values)
    if isinstance(rows, slice):
        part = x[rows]
        result = operation(part, *values)
        if result is not part:
            part.copy_(result)
        return x
    return x.index_copy_(0, rows, operation(x.index_select(0, rows), *values))


def _store(target: Tensor, rows: Tensor, images: Tensor) -> None:
    if len(rows) > FEW_ROWS:
        target.index_copy_(0, rows, images)
        return
    for row, image in zip(rows.tolist(), images, strict=True):
        target[row] = image
