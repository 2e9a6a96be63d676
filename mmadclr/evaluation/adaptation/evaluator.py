"""The measures of adaptation as an evaluator in a run."""

from __future__ import annotations

from typing import Annotated

from torch import nn

from mmadclr.datasets.listing import built_alike
from mmadclr.evaluation.adaptation.masks import FolderProbe
from mmadclr.evaluation.adaptation.measuring import Measured, drift_of, encoder_of, measure_backbone
from mmadclr.evaluation.adaptation.outputs import LEAST_IMAGES, sample_images
from mmadclr.evaluation.adaptation.scores import standard_errors
from mmadclr.evaluation.adaptation.views import Views
from mmadclr.evaluation.extraction import Loading
from mmadclr.hub.opening import open_backbone
from mmadclr.registry import DATASETS, METRICS, ConfigOf

ORIGINAL = 'original/'  # prefix of the measures of the original model
ERROR = 'error/'  # prefix of the standard errors of differences from the original model


@METRICS.register_module()
class AdaptationMeasures:
    """Measures of the model in training, of the model it started from, and the drift between the two.

    Measures are those of :func:`mmadclr.evaluation.adaptation.scores.scores_of`: ``retrieval``, ``patch_agreement``,
    ``alignment``, ``uniformity``, ``rank``, with labels ``knn``, and with masks the mIoUs of ``FolderProbe``. The same of
    the original model have the prefix ``original/``, and ``error/`` is the standard error over images of the difference, so
    that ``StopWhenWorseHook`` can compare; ``drift_*`` are similarities to its features (1: equal). The original is measured
    once, at the first evaluation of a run, and again after resuming.

    Args:
        dataset: Config of an ``ImageDataset`` with ``ResizeCenterCrop``; with ``with_label`` also measures k-NN.
        original: File or folder of the original weights; None leaves out everything about the original.
        images: At most this many images, drawn with ``seed``.
        seed: Of the drawn images and their views.
        k: Neighbors of the leave-one-out k-NN.
        batch_size, num_workers: Of the loader.
        masks: Arguments of ``FolderProbe``: images with masks, which need not be among the others.
        reading: How to read ``original``: further arguments of ``open_backbone``.

    Raises:
        FileNotFoundError, ValueError: ``original`` cannot be read, ``images`` is too small, or see ``FolderProbe``.
    """

    def __init__(
        self,
        dataset: Annotated[dict, ConfigOf('ImageDataset')],
        original: str | None = None,
        images: int = 1000,
        seed: int = 0,
        k: int = 20,
        batch_size: int = 64,
        num_workers: int = 0,
        masks: Annotated[dict, ConfigOf(FolderProbe)] | None = None,
        reading: dict | None = None,
    ) -> None:
        if images < LEAST_IMAGES:
            raise ValueError(f'images={images} of AdaptationMeasures must be at least {LEAST_IMAGES}')
        self.dataset = built_alike(lambda: DATASETS.build({'type': 'ImageDataset', **dataset}))
        self.opened = None if original is None else open_backbone(original, **(reading or {}))
        self.indices = sample_images(len(self.dataset), images, seed)
        self.views, self.k = Views(seed), k
        self.loading = Loading(batch_size, num_workers)
        self.probe = None if masks is None else FolderProbe(**masks)
        self.original: Measured | None = None

    def of_model(self, model: nn.Module) -> dict[str, float]:
        """Measures of a pretraining model, using the features of its teacher."""
        if self.opened is not None and self.original is None:
            encoder = encoder_of(self.opened)
            self.original = self._measure(encoder, 'the original model')
            self.opened = None  # only its features are needed from here on
        found = self._measure(model, 'the model in training')
        if self.original is None:
            return found.values()
        beside = {f'{ORIGINAL}{name}': value for name, value in self.original.values().items()}
        errors = standard_errors(found.scores, self.original.scores)
        beside |= {f'{ERROR}{name}': value for name, value in errors.items()}
        return found.values() | drift_of(self.original.outputs, found.outputs) | beside

    def _measure(self, model: nn.Module, name: str) -> Measured:
        return measure_backbone(model, self.dataset, self.loading, self.indices, self.views, self.probe, self.k, name)
