"""Linear segmentation by NeCo's recipe: the backbone encodes augmented training images in every epoch.

Every process performs the same steps of the head. See ``linear_crops`` for the recipes of DINOv2, DINOv3 and iBOT.

Shape legend: B images of a batch, P patches of an image (h x w), D channels, S side of an input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from mmadclr.evaluation.dense.bootstrap import iou_score
from mmadclr.evaluation.dense.linear_segmentation import NECO, Batch, LinearHead, evaluate_linear_head, train_linear_head
from mmadclr.evaluation.dense.segmentation_scores import SegmentationResult
from mmadclr.evaluation.suite.encoded_batches import Encoding, encoded_batches
from mmadclr.evaluation.suite.forms import NecoAugmentation, labels_by_pillow, read_image, read_labels, square_input
from mmadclr.evaluation.suite.outcomes import Outcome
from mmadclr.evaluation.suite.passes import own_random, units_of
from mmadclr.evaluation.suite.segmentation import absent_notes, form_of, inputs_of, on_device, unlearned_notes
from mmadclr.evaluation.suite.settings import Linear, metric_base
from mmadclr.evaluation.suite.source import Source


def epoch_batches(count: int, settings: Linear, epoch: int) -> list[list[int]]:
    """Images of every batch of an epoch, in order, or shuffled.

    Raises:
        ValueError: ``drop_last`` leaves no batch.
    """
    order = torch.arange(count)
    if settings.shuffle:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.seed + epoch))
    batches = [[int(order[place]) for place in unit] for unit in units_of(count, settings.batch)]
    if settings.drop_last and len(batches[-1]) < settings.batch:
        batches.pop()
    if not batches:
        raise ValueError(f'linear.batch={settings.batch} with drop_last must be at most the {count} images')
    return batches


class TrainingBatches:
    """Features and label maps of augmented training images, batch by batch; one loader for an epoch.

    ``labels``: those that occurred.
    """

    def __init__(self, source: Source, settings: Linear) -> None:
        self.source, self.settings, self.form = source, settings, form_of(settings)
        self.augment, self.labels = NecoAugmentation(self.form), set[int]()

    def __call__(self, epoch: int) -> Iterator[Batch]:
        batches = epoch_batches(len(self.source.items('train')), self.settings, epoch)
        shape = (self.source.encoder.width, *self.source.grid(self.form))
        encoding = Encoding(partial(self.read, epoch), self.encode, shape, self.form.size)
        what = f'{self.source.benchmark.name} linear, epoch {epoch + 1} of {self.settings.epochs}'
        for features, masks in encoded_batches(self.source, batches, encoding, what):
            self.labels.update(masks.unique().tolist())
            yield features, masks

    def read(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Input and label map of an image in an epoch."""
        item = self.source.items('train')[index]
        image = read_image(item.image)
        labels = read_labels(self.source.benchmark, item, image.size[::-1])
        if not self.settings.augment:
            return square_input(image, self.form), labels_by_pillow(labels, self.form.size)
        with own_random(self.settings.seed, epoch, index):
            return self.augment(image, labels)

    def encode(self, images: Tensor) -> Tensor:
        """(B, D, h, w) of inputs."""
        return as_map(self.source.encoder(images, ['patch'])['patch'], self.source.grid(self.form))


def as_map(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, D, h, w) of patches (B, P, D)."""
    return features.float().transpose(1, 2).unflatten(2, grid)


def linear(source: Source, settings: Linear) -> Outcome:
    """See ``dense.linear_segmentation``. Results of the last epoch, and of the best one on the validation images.

    Raises:
        ValueError: See :func:`epoch_batches` and ``train_linear_head``.
    """
    recipe = replace(
        NECO, epochs=settings.epochs, batch_size=settings.batch, lr=settings.lr, step_epochs=settings.step_epochs
    )
    classes = len(source.benchmark.classes)
    per_epoch = len(epoch_batches(len(source.items('train')), settings, 0))
    validation = ValidationBatches(source, settings)
    generator = torch.Generator().manual_seed(settings.seed)
    head = LinearHead(source.encoder.width, classes, recipe, generator, uniform=True).to(source.encoder.device)
    training, results = TrainingBatches(source, settings), []

    def score(_: int) -> None:
        results.append(evaluate_linear_head(head, validation(), recipe, ignore=source.ignore))

    for _ in train_linear_head(head, training, recipe, per_epoch, ignore=source.ignore, after_epoch=score):
        pass
    return _outcome(source, settings, results, validation, training.labels)


class ValidationBatches:
    """Features and label maps of the validation images."""

    def __init__(self, source: Source, settings: Linear) -> None:
        rows = source.rows('val', form_of(settings), inputs_of(settings)['val'])
        self.source, self.grid = source, source.grid(form_of(settings))
        self.features, self.masks = rows['patch'], rows['labels_by_pillow']
        plain = replace(settings, shuffle=False)
        self.batches = epoch_batches(len(self.features), plain, 0)
        self.dropped = len(self.features) - sum(map(len, self.batches))

    def __call__(self) -> Iterator[Batch]:
        for unit in self.batches:
            features, masks = (on_device(x[unit[0] : unit[-1] + 1], self.source) for x in (self.features, self.masks))
            yield as_map(features, self.grid), masks


def _outcome(
    source: Source, settings: Linear, results: list[SegmentationResult], validation: ValidationBatches, learned: set[int]
) -> Outcome:
    base = metric_base('linear', settings)
    scores = [result.metrics['linear_mIoU'] for result in results]
    best = max(range(len(scores)), key=scores.__getitem__)
    chosen = {f'{base}_mIoU': -1, f'{base}_mIoU_best_on_val': best}
    statistics = {name: iou_score(results[epoch].counts.confusions.cpu()) for name, epoch in chosen.items()}
    metrics = {name: scores[epoch] for name, epoch in chosen.items()}
    confusion = results[-1].counts.confusion.cpu()
    unlearned = sorted(set((confusion.sum(dim=1) > 0).nonzero().flatten().tolist()) - learned)
    notes = (*absent_notes(confusion, source, True), *unlearned_notes(tuple(unlearned), source))
    if validation.dropped:
        notes += (f'{validation.dropped} of {len(validation.features)} validation images dropped, as published',)
    units = len(results[-1].counts.confusions)
    return Outcome(metrics, statistics, units, notes, dict(best_epoch=best + 1, mIoU_of_epochs=scores))
