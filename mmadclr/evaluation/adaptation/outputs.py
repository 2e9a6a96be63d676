"""One pass of a backbone over images and their views, from which all label-free measures are computed.

Shape legend: N images, B of a batch, S side in pixels, P patches along a side, n patches kept of an image, D channels of
image features, E channels of patches.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmadclr.datasets.image_dataset import ImageDataset
from mmadclr.evaluation.adaptation.views import VIEWS, Views, drawn_crop, drawn_patches, mirrored
from mmadclr.evaluation.extraction import Loading, extract_rows
from mmadclr.evaluation.extractor import FeatureExtractor
from mmadclr.evaluation.frozen import Encoder
from mmadclr.models.selfsup.base import SelfDistillation
from mmadclr.precision import autocast_to

LEAST_IMAGES, MOST_IMAGES = 4, 5000


class FeatureError(ValueError):
    """Features that cannot be measured, with what is wrong and where."""


class Outputs(NamedTuple):
    """Features of one model for the same images as those of the models it is compared with; all on the CPU.

    ``whole``, ``crop``: (N, D) of the images and of a crop of each. ``patches``, ``mirrored``: (N, n, E) of drawn places in
    the images, and of the same places in their mirror images. ``indices``: (N,) of the images in their data set, ascending,
    without unreadable ones. ``labels``: (N,), None without class folders.
    """

    whole: Tensor
    crop: Tensor
    patches: Tensor
    mirrored: Tensor
    indices: np.ndarray
    labels: Tensor | None


def image_outputs(
    model: Encoder,
    dataset: ImageDataset,
    loading: Loading = Loading(64),  # noqa: B008  # immutable
    indices: np.ndarray | None = None,
    views: Views = VIEWS,
    name: str = 'the model',
) -> Outputs:
    """Runs a model over images and their views, which do not depend on batches, workers or processes; collective call.

    Args:
        model: Frozen, on its device; see :func:`mmadclr.evaluation.frozen.frozen`.
        dataset: With ``ResizeCenterCrop``, whose ``size`` is a multiple of the patch size, with or without labels.
        loading: How images are read.
        indices: Images to use, ascending; by default at most ``MOST_IMAGES`` of :func:`sample_images`.
        views: What is drawn.
        name: Of the model, in messages.

    Raises:
        ValueError: Fewer than four images are readable.
        FeatureError: Features are NaN or infinite, or the patches are not a square grid that fills the image.
        UnreadableImageError: Too many images cannot be read.
    """
    indices = sample_images(len(dataset), MOST_IMAGES) if indices is None else indices
    _check_count(len(indices), dataset)
    rows, indices = extract_rows(ViewEncoder(model, views, name), dataset, loading, indices)
    _check_count(len(indices), dataset)
    width, count = int(rows[0, 0]), int(rows[0, 1])
    whole, crop, tokens = rows[:, 2:].split((width, width, rows.shape[1] - 2 - 2 * width), dim=1)
    patches, mirrored_patches = tokens.unflatten(1, (2, count, -1)).unbind(dim=1)
    labels = None if dataset.labels is None else torch.from_numpy(np.array(dataset.labels[indices]))
    return Outputs(whole, crop, patches, mirrored_patches, indices, labels)


def sample_images(count: int, most: int, seed: int = 0) -> np.ndarray:
    """Indices, ascending, of at most ``most`` of ``count`` images, drawn at random with a fixed seed."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def _check_count(count: int, dataset: ImageDataset) -> None:
    if count < LEAST_IMAGES:
        raise ValueError(
            f'{dataset.data_root}: {count} image(s) to measure, but images are compared with each other, which needs at '
            f'least {LEAST_IMAGES} readable ones (hundreds for a clear result): add images'
        )


class ViewEncoder:
    """An encoder as ``feature_batches`` calls it: makes the views of a batch, and returns all features in one row per image.

    The row of an image is the numbers D and n, the features of the image and of its crop (D each), and the patches and
    mirrored patches (n E each): a process without images can take it apart, too.

    Args:
        model, views, name: See :func:`image_outputs`.
    """

    def __init__(self, model: Encoder, views: Views, name: str) -> None:
        self.model, self.views, self.name = model, views, name

    def data_preprocessor(self, data: dict, training: bool = False) -> dict[str, Any]:
        """``images`` (B, 3, S, S) uint8 and ``index`` (B,) -> normalized images of each view, and ``index``."""
        numbered = list(zip(data['images'], data['index'].tolist(), strict=True))
        drawn = {
            'whole': data['images'],
            'crop': torch.stack([drawn_crop(image, index, self.views) for image, index in numbered]),
            'mirrored': torch.stack([mirrored(image, index, self.views) for image, index in numbered]),
        }
        prepared = {key: self.model.data_preprocessor({'images': images}, False) for key, images in drawn.items()}
        return {'prepared': prepared, 'index': data['index']}

    def __call__(self, *, mode: str, **inputs: Any) -> Tensor:
        """Rows (B, 2 + 2 D + 2 n E) from the output of ``data_preprocessor``; all modes are the same."""
        prepared, index = inputs['prepared'], inputs['index']
        whole, patches = image_and_patches(self.model, prepared['whole'])
        found = {'[CLS] of the image': whole, '[CLS] of the crop': self.model(**prepared['crop'], mode='tensor')}
        grids = {'image': patches, 'mirror image': self.model(**prepared['mirrored'], mode='patches')}
        places = self._places(patches, prepared['whole'], index)
        for (key, grid), rows in zip(grids.items(), places, strict=True):
            found[f'patches of the {key}'] = grid.gather(1, rows[..., None].expand(-1, -1, grid.shape[2])).flatten(1)
        self._check_finite(found, index)
        header = whole.new_tensor([whole.shape[1], places.shape[2]], dtype=torch.float32).expand(len(whole), 2)
        return torch.cat((header, *(part.float() for part in found.values())), dim=1)

    def _places(self, patches: Tensor, prepared: dict, index: Tensor) -> Tensor:
        """(2, B, n) numbers of the drawn patches in images and mirror images."""
        side = self._side(patches, prepared)
        drawn = [torch.stack(drawn_patches(number, side, self.views)) for number in index.tolist()]
        return torch.stack(drawn, dim=1).to(patches.device)

    def _side(self, patches: Tensor, prepared: dict) -> int:
        """P of a square grid (B, P * P, E)."""
        side, pixels = math.isqrt(patches.shape[1]), prepared['images'].shape[-1]
        if side**2 != patches.shape[1] or pixels % side:
            raise FeatureError(
                f'{self.name}: {patches.shape[1]} patches of images of {pixels} x {pixels} pixels are not a square grid '
                'without padding: the size of the images must be a multiple of the patch size'
            )
        return side

    def _check_finite(self, found: dict[str, Tensor], index: Tensor) -> None:
        for part, features in found.items():
            broken = ~features.isfinite().all(dim=1).cpu()
            if broken.any():
                raise FeatureError(
                    f'{self.name}: {part} {"is" if "CLS" in part else "are"} NaN or infinite for {int(broken.sum())} of '
                    f'{len(index)} images, the first with index {int(index[broken][0])}: the weights are damaged, or '
                    "activations overflow (use precision='fp32')"
                )


def image_and_patches(model: Encoder, inputs: dict) -> tuple[Tensor, Tensor]:
    """Features (B, D) of images and (B, P * P, E) of their patches: in one pass if the model's image feature is [CLS]."""
    if isinstance(model, FeatureExtractor) and model.features == 'cls':
        with autocast_to(model.precision, inputs['images'].device.type):
            output = model.backbone(inputs['images'])
        return output.cls.float(), output.patches.float()
    methods = (SelfDistillation.image_features, SelfDistillation.patch_features)
    if isinstance(model, SelfDistillation) and (type(model).image_features, type(model).patch_features) == methods:
        output = model.teacher['backbone'](inputs['images'])
        return output.cls, output.patches
    return model(**inputs, mode='tensor'), model(**inputs, mode='patches')
