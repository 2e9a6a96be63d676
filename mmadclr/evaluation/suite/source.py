"""Features and label maps of a segmentation benchmark, computed once for all protocols with the same input.

Shape legend: N images, P patches of an image (h x w), D channels, S side of an input.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import dist
from torch import Tensor

from mmadclr.datasets.benchmarks.types import LabeledImage, SegmentationBenchmark
from mmadclr.evaluation.dense.segmentation_scores import VOID
from mmadclr.evaluation.suite.encoder import DenseEncoder
from mmadclr.evaluation.suite.fingerprints import sizes_and_times
from mmadclr.evaluation.suite.forms import LABELS, Form, read_image, read_labels, square_input
from mmadclr.evaluation.suite.passes import Arrays, Loading, checked_rows, compute_rows, digest_of
from mmadclr.models.backbones.dense_features import KINDS


class Source:
    """Images of a benchmark as features.

    Args:
        benchmark: See there.
        encoder: Of the images.
        loading: See there.
        dtype: Of stored features.
        folder: Where to keep them; None: in memory.
        digest: Of the weights and their precision.
    """

    def __init__(
        self,
        benchmark: SegmentationBenchmark,
        encoder: DenseEncoder,
        loading: Loading,
        dtype: str = 'float32',
        folder: Path | None = None,
        digest: str = '',
    ) -> None:
        self.benchmark, self.encoder, self.loading, self.dtype = benchmark, encoder, loading, dtype
        self.folder, self.digest = folder, digest
        self.planned: dict[tuple[str, Form], set[str]] = {}
        self._found: dict[tuple[str, Form], dict[str, np.ndarray]] = {}

    @property
    def ignore(self) -> tuple[int, ...]:
        """Labels that are not scored: 255, and in ``ade20k_151`` the class of unlabeled pixels, as published."""
        return (0, VOID) if self.benchmark.name.partition(':')[0] == 'ade20k_151' else (VOID,)

    def items(self, split: str) -> Sequence[LabeledImage]:
        return self.benchmark.train if split == 'train' else self.benchmark.val

    def grid(self, form: Form) -> tuple[int, int]:
        """h and w."""
        side = form.size // self.encoder.patch_size
        return side, side

    def plan(self, split: str, form: Form, kinds: Collection[str]) -> None:
        """Adds kinds to those that are computed with the first request of this input."""
        self.planned.setdefault((split, form), set()).update(kinds)

    def rows(self, split: str, form: Form, kinds: Collection[str]) -> dict[str, np.ndarray]:
        """Features (N, P, D), attention (N, heads, P) and label maps (N, S, S) of the images of a split, by kind.

        Args:
            split: ``'train'`` or ``'val'``.
            form: See there.
            kinds: See ``dense_features``, and the names in ``forms.LABELS``.
        """
        place = (split, form)
        if not set(kinds) <= set(self._found.get(place, ())):
            self.plan(split, form, kinds)
            self._found[place] = self._compute(split, form, sorted(self.planned[place]))
        return self._found[place]

    def forget(self, split: str, form: Form, keep: bool = False) -> None:
        """Closes, and removes unless ``keep``, the features of an input that no protocol needs any more."""
        self._found.pop((split, form), None)
        if not keep and self.folder is not None and dist.is_main_process():
            shutil.rmtree(self._place(split, form), ignore_errors=True)

    def described(self, split: str, form: Form) -> dict[str, Any]:
        """What the features of an input depend on."""
        items = self.items(split)
        files = [path for item in items for path in (item.image, item.mask)]
        found = None if self.folder is None else sizes_and_times(files)  # only what is kept outlives a change of the files
        images = digest_of([[item.name for item in items], files, found])
        return dict(form=list(form), images=images, weights=self.digest, dtype=self.dtype, batch=self.loading.batch_size)

    def _place(self, split: str, form: Form) -> Path:
        assert self.folder is not None
        return self.folder / f'{split}-{form.size}-{form.resize}-{digest_of(form)[:8]}'

    def _compute(self, split: str, form: Form, kinds: Sequence[str]) -> dict[str, np.ndarray]:
        items = self.items(split)
        label_kinds, feature_kinds = [k for k in kinds if k in LABELS], [k for k in kinds if k in KINDS]

        def read(index: int) -> tuple[Tensor, dict[str, Tensor]]:
            image = read_image(items[index].image)
            labels = read_labels(self.benchmark, items[index], image.size[::-1]) if label_kinds else np.empty((0, 0))
            return square_input(image, form), {kind: LABELS[kind](labels, form.size) for kind in label_kinds}

        def compute(read_items: list[tuple[Tensor, dict[str, Tensor]]]) -> Mapping[str, np.ndarray]:
            images, labels = zip(*read_items, strict=True)
            features = self.encoder(torch.stack(images), feature_kinds) if feature_kinds else {}
            found = {kind: checked_rows(rows, self.dtype) for kind, rows in features.items()}
            return found | {kind: np.stack([each[kind].numpy() for each in labels]) for kind in label_kinds}

        return compute_rows(
            read,
            compute,
            len(items),
            {kind: self.layout(kind, form) for kind in kinds},
            self.loading,
            f'{self.benchmark.name} {split} {form.size}',
            None if self.folder is None else self._place(split, form),
            self.described(split, form),
        )

    def layout(self, kind: str, form: Form) -> Arrays:
        """Shape of the rows of an image."""
        if kind in LABELS:
            return Arrays((form.size, form.size), 'uint8')
        patches = self.grid(form)[0] ** 2
        shape = (self.encoder.heads, patches) if kind == 'attention' else (patches, self.encoder.width)
        return Arrays(shape, self.dtype)
