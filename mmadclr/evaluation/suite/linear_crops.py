"""Linear segmentation by the recipes of DINOv2, DINOv3 and iBOT: heads trained on crops, tested on images of any size.

Every process performs the same steps of the head; encoding and testing are shared out.

Shape legend: N validation images, B images of a batch, K blocks of D channels, C classes, H x W pixels, S side of a crop.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine import dist
from torch import Tensor

from mmadclr.distributed.agreement import together
from mmadclr.evaluation.dense.bootstrap import iou_score
from mmadclr.evaluation.dense.linear_segmentation import Batch, LinearHead, LinearRecipe, train_linear_head
from mmadclr.evaluation.dense.segmentation_scores import PixelCounts, count_pixels, mean_iou
from mmadclr.evaluation.dense.sliding import slide_logits
from mmadclr.evaluation.suite.encoded_batches import Encoding, encoded_batches
from mmadclr.evaluation.suite.encoder import BackboneEncoder
from mmadclr.evaluation.suite.forms import read_image, read_labels
from mmadclr.evaluation.suite.outcomes import Outcome
from mmadclr.evaluation.suite.passes import batches as read_batches
from mmadclr.evaluation.suite.passes import my_part, own_random, shown, units_of
from mmadclr.evaluation.suite.segmentation import absent_notes, unlearned_notes
from mmadclr.evaluation.suite.segmentor_forms import CropForm, SegmentorAugmentation, central_crop, whole_input
from mmadclr.evaluation.suite.settings import PROTOCOLS, LinearDinov2, metric_base
from mmadclr.evaluation.suite.source import Source

LOADED = 1000  # iterations of one loader


class Score(NamedTuple):
    """``iteration``: after which the head was tested. ``value``: mIoU, percent."""

    iteration: int
    value: float
    counts: PixelCounts


def recipe_of(settings: LinearDinov2) -> LinearRecipe:
    """Recipe of the head."""
    return LinearRecipe(
        'adamw',
        settings.lr,
        settings.decay,
        settings.schedule,
        settings.batch,
        'seen',
        iterations=settings.iterations,
        warmup=settings.warmup,
        lag=settings.lag,
        norm=settings.batch_norm,
        dropout=settings.dropout,
        over_all_pixels=settings.over_all_pixels,
    )


def form_of_crops(settings: LinearDinov2) -> CropForm:
    return CropForm(settings.size, settings.most_of_class, settings.mean, settings.std)


@lru_cache(maxsize=2)
def shuffled(count: int, seed: int, number: int) -> list[int]:
    """Order of the images in a pass through all of them."""
    with own_random(seed, number):
        return torch.randperm(count).tolist()


class Segmentor:
    """A frozen backbone and a head, as ``settings`` combine them."""

    def __init__(self, encoder: BackboneEncoder, settings: LinearDinov2, num_classes: int) -> None:
        self.encoder, self.settings = encoder, settings
        generator = torch.Generator().manual_seed(settings.seed)
        self.channels = len(settings.blocks) * encoder.width
        self.head = LinearHead(self.channels, num_classes, recipe_of(settings), generator).to(encoder.device)

    def encode(self, images: Tensor) -> Tensor:
        """(B, K D, h, w) of inputs (B, 3, H, W)."""
        return self.encoder.maps(images, self.settings.blocks, self.settings.final_norm)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """(B, C, H, W), bilinear between patches; inputs may be padded to whole patches, logits are not."""
        height, width = images.shape[-2:]
        maps = self.head(self.encode(images))
        sides = [side * self.encoder.patch_size for side in maps.shape[-2:]]
        return F.interpolate(maps, size=sides, mode='bilinear')[:, :, :height, :width]

    def predict(self, image: Tensor, size: tuple[int, int], batch: int) -> Tensor:
        """(H, W) classes, at the original size of an image, of its input (3, ., .)."""
        settings = self.settings
        if settings.test == 'slide':
            stride = settings.stride or settings.size * 2 // 3
            logits = slide_logits(self.logits, image, settings.size, stride, batch)[None]
        else:
            logits = self.logits(image[None])
        return F.interpolate(logits, size=size, mode='bilinear')[0].argmax(dim=0)


class CropBatches:
    """Maps and labels of crops of training images in shuffled passes, batch by batch, for one validation interval.

    ``labels``: those that occurred.
    """

    def __init__(self, source: Source, segmentor: Segmentor, per_epoch: int) -> None:
        self.source, self.segmentor, self.per_epoch = source, segmentor, per_epoch
        self.settings, self.form = segmentor.settings, form_of_crops(segmentor.settings)
        self.augment, self.labels = SegmentorAugmentation(self.form), set[int]()

    def __call__(self, epoch: int) -> Iterator[Batch]:
        total, batch = self.settings.iterations, self.settings.batch
        end = min((epoch + 1) * self.per_epoch, total)
        grid = (self.settings.size // self.source.encoder.patch_size,) * 2
        encoding = Encoding(self.read, self.segmentor.encode, (self.segmentor.channels, *grid), self.settings.size)
        for start in range(epoch * self.per_epoch, end, LOADED):
            stop = min(start + LOADED, end)
            places = [range(number * batch, (number + 1) * batch) for number in range(start, stop)]
            what = f'{self.source.benchmark.name} {protocol_of(self.settings)}, iterations to {stop} of {total}'
            for maps, masks in encoded_batches(self.source, places, encoding, what):
                self.labels.update(masks.unique().tolist())
                yield maps, masks

    def read(self, place: int) -> tuple[Tensor, Tensor]:
        """Input and label map of the crop at a place in the stream of all passes."""
        items = self.source.items('train')
        number, rest = divmod(place, len(items))
        index = shuffled(len(items), self.settings.seed, number)[rest]
        image = read_image(items[index].image)
        labels = read_labels(self.source.benchmark, items[index], image.size[::-1])
        if not self.settings.augment:
            return central_crop(image, labels, self.form)
        with own_random(self.settings.seed, number, index):
            return self.augment(image, labels)


def protocol_of(settings: LinearDinov2) -> str:
    """Name of the protocol of some settings."""
    return next(name for name, protocol in PROTOCOLS.items() if protocol.settings is type(settings))


def tested(source: Source, segmentor: Segmentor) -> PixelCounts:
    """Pixel counts of the validation images at their original sizes."""
    items, form, head = source.items('val'), form_of_crops(segmentor.settings), segmentor.head
    classes, device = len(source.benchmark.classes), source.encoder.device
    counts = torch.zeros(len(items), classes, classes, dtype=torch.int32)

    def read(index: int) -> tuple[Tensor, np.ndarray]:
        image = read_image(items[index].image)
        return whole_input(image, form), read_labels(source.benchmark, items[index], image.size[::-1])

    def score() -> None:
        units = my_part(units_of(len(items), 1))
        what = f'{source.benchmark.name} {protocol_of(segmentor.settings)}, validation'
        stream = shown(read_batches(read, units, source.loading.workers), len(units), what)
        for (index,), ((image, labels),) in zip(units, stream, strict=True):
            found = segmentor.predict(image.to(device), labels.shape, source.loading.batch_size).cpu()
            counts[index] = count_pixels(found[None], torch.from_numpy(labels)[None], classes, ignore=source.ignore)[0][0]

    head.eval()
    together(score)
    dist.all_reduce(counts)
    return PixelCounts(counts, torch.zeros(len(counts)))


class Validations:
    """Tests of the head after every validation interval.

    ``last``, ``best``: scores. ``history``: iteration and mIoU, percent.
    """

    last: Score
    best: Score

    def __init__(self, source: Source, segmentor: Segmentor, per_epoch: int) -> None:
        self.source, self.segmentor, self.per_epoch = source, segmentor, per_epoch
        self.history: list[tuple[int, float]] = []

    def __call__(self, epoch: int) -> None:
        counts = tested(self.source, self.segmentor)
        iteration = min((epoch + 1) * self.per_epoch, self.segmentor.settings.iterations)
        self.last = Score(iteration, 100 * mean_iou(counts.confusion, 'seen'), counts)
        if not self.history or self.last.value > self.best.value:
            self.best = self.last
        self.history.append((iteration, self.last.value))


def linear_crops(source: Source, settings: LinearDinov2) -> Outcome:
    """Results of the trained head, and with ``validate`` of the best one on the validation images.

    Raises:
        ValueError: See ``train_linear_head`` and ``count_pixels``.
    """
    encoder = source.encoder
    assert isinstance(encoder, BackboneEncoder)
    segmentor = Segmentor(encoder, settings, len(source.benchmark.classes))
    per_epoch = min(settings.validate or settings.iterations, settings.iterations)
    training, validations = CropBatches(source, segmentor, per_epoch), Validations(source, segmentor, per_epoch)
    steps = train_linear_head(
        segmentor.head, training, recipe_of(settings), per_epoch, ignore=source.ignore, after_epoch=validations
    )
    for _ in steps:
        pass
    return _outcome(source, settings, validations, training.labels)


def _outcome(source: Source, settings: LinearDinov2, validations: Validations, learned: set[int]) -> Outcome:
    base = metric_base(protocol_of(settings), settings)
    chosen = {f'{base}_mIoU': validations.last}
    if settings.validate:
        chosen[f'{base}_mIoU_best_on_val'] = validations.best
    statistics = {name: iou_score(score.counts.confusions, 'seen') for name, score in chosen.items()}
    confusion = validations.last.counts.confusion
    unlearned = sorted(set((confusion.sum(dim=1) > 0).nonzero().flatten().tolist()) - learned)
    notes = (*absent_notes(confusion, source, False), *unlearned_notes(tuple(unlearned), source))
    about = dict(best_iteration=validations.best.iteration, mIoU_of_iterations=[list(pair) for pair in validations.history])
    metrics = {name: score.value for name, score in chosen.items()}
    return Outcome(metrics, statistics, len(validations.last.counts.confusions), notes, about)
