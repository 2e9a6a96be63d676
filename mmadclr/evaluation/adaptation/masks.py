"""The dense probe with the pixel counts of every image, over which intervals are made.

Shape legend: M images with masks, B of a batch, n of a process, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmadclr.distributed.agreement import together
from mmadclr.evaluation.dense_probe import MAX_UNREADABLE, DenseProbe, map_confusion
from mmadclr.evaluation.feature_shards import gather_uneven
from mmadclr.evaluation.frozen import Encoder
from mmadclr.evaluation.image_account import ImageAccount
from mmadclr.evaluation.patches import patch_batches


def image_counts(probe: DenseProbe, model: Encoder) -> dict[str, Tensor]:
    """Pixel counts (M, 3, C) of the readable validation images, by the name of the classifier; collective call.

    Of every class: correct, annotated and predicted pixels, all that the IoU needs. Their sums are those of which
    ``DenseProbe.of_model`` reports the mIoU.

    Args:
        probe: Trained on its training images first.
        model: Frozen, on its device.

    Raises:
        ValueError: See ``DenseProbe``.
    """
    classifiers = probe.classifiers(*probe.bank(model))
    account = ImageAccount()

    def count() -> list[tuple[Tensor, dict[str, Tensor]]]:
        batches = patch_batches(model, probe.val, probe.batch_size, probe.num_workers)
        return [(batch.indices, _counts(batch, classifiers, probe.val.num_classes)) for batch in account.over(batches)]

    parts = together(count)
    account.report(probe.val, MAX_UNREADABLE)
    order = torch.cat(gather_uneven(torch.cat([indices for indices, _ in parts]))).argsort()
    counts = {name: torch.cat([found[name] for _, found in parts]) for name in classifiers}
    return {name: torch.cat(gather_uneven(rows))[order] for name, rows in counts.items()}


def _counts(batch, classifiers, classes: int) -> dict[str, Tensor]:
    """(B, 3, C) on the CPU for every classifier."""
    features, found = batch.outputs.float(), {}
    for name, classify in classifiers.items():
        scores = classify(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        pairs = zip(scores.split(1), batch.masks.split(1), strict=True)
        each = [map_confusion(score, mask, classes).cpu() for score, mask in pairs if len(mask)]
        rows = [torch.stack((m.diag(), m.sum(dim=1), m.sum(dim=0))) for m in each]
        found[name] = torch.stack(rows) if rows else torch.zeros(0, 3, classes, dtype=torch.int64)
    return found
