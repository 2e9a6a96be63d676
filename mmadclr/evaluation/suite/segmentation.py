"""Protocols on segmentation benchmarks: retrieval, k-NN, logistic regression, clustering, attention.

Each takes a source of features and its settings, and returns its outcome on the main process. Inputs are listed by
:func:`inputs_of`, so that protocols with the same input share them.

Shape legend: N images, P patches of an image (h x w), D channels, C classes, S side of an input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from mmengine import dist
from torch import Tensor

from mmadclr.distributed.agreement import together
from mmadclr.evaluation.dense.attention_masks import attention_jaccard
from mmadclr.evaluation.dense.bootstrap import Statistic, iou_score, mean_score, ratio_score
from mmadclr.evaluation.dense.clustering import ClusteringResult, evaluate_clustering
from mmadclr.evaluation.dense.hummingbird import (
    label_maps,
    matched_result,
    patch_shares,
    patches_per_image,
    propagate_shares,
    sample_patches,
    take_patches,
)
from mmadclr.evaluation.dense.matching import How
from mmadclr.evaluation.dense.patch_knn import evaluate_patch_knn
from mmadclr.evaluation.dense.patch_logistic import evaluate_patch_logistic
from mmadclr.evaluation.dense.patch_sets import PatchResult, PatchSplit, published_permutation, split_patches
from mmadclr.evaluation.dense.segmentation_scores import PixelCounts, count_pixels
from mmadclr.evaluation.suite.forms import (
    Form,
    HummingbirdAugmentation,
    labels_by_torch,
    read_image,
    read_labels,
    square_input,
)
from mmadclr.evaluation.suite.outcomes import Outcome, mapped_score, mean_of, names_of
from mmadclr.evaluation.suite.passes import Arrays, alone, checked_rows, compute_rows, my_part, own_random, shown, units_of
from mmadclr.evaluation.suite.settings import (
    Attention,
    Cluster,
    Hummingbird,
    Linear,
    PatchKnn,
    PatchLogistic,
    Settings,
    metric_base,
)
from mmadclr.evaluation.suite.source import Source

PUBLISHED_BATCH = 32  # of NeCo's clustering
QUERY_IMAGES = 64
BANK = 'hummingbird-bank'


def form_of(settings: Settings) -> Form:
    """Input of the validation images."""
    resize = 'bicubic' if isinstance(settings, (PatchKnn, PatchLogistic)) else 'bilinear'
    return Form(settings.size, resize, settings.mean, settings.std)


def inputs_of(settings: Settings) -> dict[str, set[str]]:
    """Kinds of features and label maps that a protocol reads, by split."""
    if isinstance(settings, Hummingbird):
        return {'val': {'patch', 'labels_by_torch'}}
    if isinstance(settings, (PatchKnn, PatchLogistic)):
        return {split: {'patch', 'labels_by_pillow'} for split in ('train', 'val')}
    if isinstance(settings, Attention):
        return {'val': {'attention', 'labels_by_pillow'}}
    return {'val': {'patch', 'labels_by_pillow'}} if isinstance(settings, (Linear, Cluster)) else {}


def on_device(rows: np.ndarray, source: Source) -> Tensor:
    """An array, which may be memory-mapped, on the device of the encoder; not copied on the CPU."""
    return torch.from_numpy(rows).to(source.encoder.device)


def absent_notes(confusion: Tensor, source: Source, over_all: bool) -> tuple[str, ...]:
    """A note about classes that no annotated pixel of the validation images has."""
    absent = (confusion.sum(dim=1) == 0).nonzero().flatten().tolist()
    if not absent:
        return ()
    effect = 'count 0 in the mean over all classes' if over_all else 'are not in the mean'
    return (f'not annotated in the validation images: {names_of(absent, source.benchmark.classes)}; they {effect}',)


def unlearned_notes(labels: tuple[int, ...], source: Source) -> tuple[str, ...]:
    """A note about classes that only the validation images have."""
    if not labels:
        return ()
    return (f'not in the training images: {names_of(labels, source.benchmark.classes)}; they cannot be predicted',)


def build_bank(source: Source, settings: Hummingbird) -> dict[str, np.ndarray]:
    """``features`` (E N, K, D) and ``shares`` (E N, K, C) of the training patches: epochs outermost, K per image."""
    items, form, benchmark = source.items('train'), form_of(settings), source.benchmark
    grid, classes = source.grid(form), len(benchmark.classes)
    patches, augment = grid[0] * grid[1], HummingbirdAugmentation(form)
    memory = settings.memory or len(items) * settings.epochs * patches
    number = min(patches_per_image(memory, len(items), settings.epochs), patches)

    def read(place: int) -> tuple[int, Tensor, Tensor]:
        index = place % len(items)
        image = read_image(items[index].image)
        labels = read_labels(benchmark, items[index], image.size[::-1])
        with own_random(settings.seed, place // len(items), index):
            if settings.augment:
                return place, *augment(image, labels)
        return place, square_input(image, form), labels_by_torch(labels, form.size)

    def compute(found: list[tuple[int, Tensor, Tensor]]) -> Mapping[str, np.ndarray]:
        places, images, labels = zip(*found, strict=True)
        features = source.encoder(torch.stack(images), ['patch'])['patch'].cpu()
        shares = patch_shares(torch.stack(labels), grid, classes, settings.void_as)
        draws = []
        for place in places:
            with own_random(settings.seed, place // len(items), place % len(items), 1):
                draws.append(torch.rand(patches))
        chosen = sample_patches(shares, number, torch.stack(draws))
        taken = [take_patches(x, chosen).unflatten(0, chosen.shape) for x in (features, shares)]
        return dict(features=checked_rows(taken[0], source.dtype), shares=taken[1].numpy())

    layout = dict(features=Arrays((number, source.encoder.width), source.dtype), shares=Arrays((number, classes), 'float32'))
    folder = None if source.folder is None else source.folder / BANK
    identity = source.described('train', form) | dict(settings=str(settings), classes=list(benchmark.classes))
    count = len(items) * settings.epochs
    return compute_rows(read, compute, count, layout, source.loading, f'{benchmark.name} bank', folder, identity)


def hummingbird(source: Source, settings: Hummingbird) -> Outcome:
    """See ``dense.hummingbird``; validation images are shared out to the processes."""
    bank, form = build_bank(source, settings), form_of(settings)
    features, shares = (on_device(bank[key], source).flatten(0, 1) for key in ('features', 'shares'))
    rows = source.rows('val', form, inputs_of(settings)['val'])
    grid, classes = source.grid(form), len(source.benchmark.classes)
    counts = torch.zeros(len(rows['patch']), classes, classes, dtype=torch.int32)

    def score() -> None:
        units = my_part(units_of(len(counts), QUERY_IMAGES))
        what = f'{source.benchmark.name} hummingbird'
        for unit in shown(units, sum(map(len, units)), what, len):
            queries, masks = (rows[key][unit[0] : unit[-1] + 1] for key in ('patch', 'labels_by_torch'))
            found = propagate_shares(
                features, shares, on_device(queries, source).flatten(0, 1), settings.k, settings.beta
            ).unflatten(0, queries.shape[:2])
            maps = label_maps(found, grid, masks.shape[1:]).cpu()
            counts[unit[0] : unit[-1] + 1] = count_pixels(
                maps, torch.from_numpy(masks), classes, ignore=source.ignore
            ).confusions

    together(score)
    dist.all_reduce(counts)
    how: How | None = None if settings.matching == 'none' else settings.matching
    result = matched_result('', PixelCounts(counts, torch.zeros(len(counts))), how, (shares > 0).any(dim=0))
    base = metric_base('hummingbird', settings)
    statistics = {f'{base}_mIoU': iou_score(counts, matching=how), f'{base}_mIoU_identity': iou_score(counts)}
    confusion = counts.sum(dim=0, dtype=torch.int64)
    notes = (*absent_notes(confusion, source, True), *unlearned_notes(result.unlearned, source))
    metrics = {f'{base}{name}': value for name, value in result.metrics.items()}
    return Outcome(metrics, statistics, len(counts), notes, dict(bank=len(features)))


def split_of(source: Source, settings: PatchKnn | PatchLogistic) -> PatchSplit:
    """Standardized patches of the holdout protocol."""
    form = form_of(settings)
    parts = []
    for split, kinds in inputs_of(settings).items():
        rows = source.rows(split, form, kinds)
        parts.append((on_device(rows['patch'], source), on_device(rows['labels_by_pillow'], source)))
    order = published_permutation(len(parts[0][0]), settings.seed)
    return split_patches(parts[0], parts[1], source.grid(form), order, source.ignore)


def patch_knn(source: Source, settings: PatchKnn) -> Outcome | None:
    """See ``dense.patch_knn``; computed by the main process."""
    for split, kinds in inputs_of(settings).items():
        source.rows(split, form_of(settings), kinds)
    return alone(
        lambda: _patch_outcome(
            'patch-knn', settings, source, evaluate_patch_knn(split_of(source, settings), settings.k, settings.distance)
        )
    )


def patch_logistic(source: Source, settings: PatchLogistic) -> Outcome | None:
    """See ``dense.patch_logistic``; computed by the main process."""
    for split, kinds in inputs_of(settings).items():
        source.rows(split, form_of(settings), kinds)
    return alone(
        lambda: _patch_outcome(
            'patch-logistic', settings, source, evaluate_patch_logistic(split_of(source, settings), settings.strengths)
        )
    )


def _patch_outcome(name: str, settings: PatchKnn | PatchLogistic, source: Source, result: PatchResult) -> Outcome:
    base = metric_base(name, settings)
    metrics = {f'{base}{key[key.rindex("_") :]}': value for key, value in result.metrics.items()}
    annotated = [label for label, count in zip(result.labels, result.counts.confusion.sum(dim=1), strict=True) if count]
    missing = sorted(set(range(len(source.benchmark.classes))) - set(annotated) - set(source.ignore))
    notes = unlearned_notes(result.unlearned, source)
    if missing:
        notes = (
            f'not annotated in the validation images: {names_of(missing, source.benchmark.classes)}; they are not in the '
            'mean unless predicted, which counts 0',
            *notes,
        )
    about = dict(choice=result.choice, trials=[[setting, 100 * score] for setting, score in result.trials])
    confusions = result.counts.confusions.cpu()
    accuracy = ratio_score(confusions.diagonal(dim1=1, dim2=2).sum(dim=1), confusions.sum(dim=(1, 2)))
    statistics = {f'{base}_mIoU': iou_score(confusions, 'seen'), f'{base}_accuracy': accuracy}
    return Outcome(metrics, statistics, len(confusions), notes, about)


def cluster(source: Source, settings: Cluster) -> Outcome | None:
    """See ``dense.clustering``; computed by the main process. Also overclustering."""
    source.rows('val', form_of(settings), inputs_of(settings)['val'])
    return alone(lambda: _cluster(source, settings))


def _cluster(source: Source, settings: Cluster) -> Outcome:
    form, classes = form_of(settings), len(source.benchmark.classes)
    rows = source.rows('val', form, inputs_of(settings)['val'])
    total = len(rows['patch'])
    used = total // PUBLISHED_BATCH * PUBLISHED_BATCH if settings.drop_last else total
    features, masks = (on_device(rows[key][:used], source) for key in ('patch', 'labels_by_pillow'))
    result = evaluate_clustering(
        features,
        masks,
        source.grid(form),
        classes,
        settings.k or None,
        seeds=range(settings.seeds),
        channels=settings.pca or None,
        ignore=source.ignore,
        steps=settings.steps,
        redos=settings.redos,
        points_per_center=settings.points_per_center,
    )
    name = 'cluster' if (settings.k or classes) == classes else 'overcluster'
    base = metric_base(name, settings, classes)
    notes = absent_notes(result.counts[0].confusion.cpu(), source, True)
    if used < total:
        notes += (f'{total - used} of {total} validation images dropped, as published',)
    metrics = {f'{base}_mIoU': next(iter(result.metrics.values()))}
    about = dict(mIoU_of_seeds=[100 * value for value in result.mious])
    return Outcome(metrics, {f'{base}_mIoU': _cluster_score(result)}, used, notes, about)


def _cluster_score(result: ClusteringResult) -> Statistic:
    """Mean over seeds; clusters keep their classes, otherwise each draw would be matched again."""
    pairs = zip(result.counts, result.mappings, strict=True)
    return mean_of([mapped_score(counts.confusions.cpu(), mapping) for counts, mapping in pairs])


def attention(source: Source, settings: Attention) -> Outcome | None:
    """See ``dense.attention_masks``; computed by the main process."""
    form = form_of(settings)
    rows = source.rows('val', form, inputs_of(settings)['val'])

    def score() -> Outcome:
        base = metric_base('attention', settings)
        found = attention_jaccard(
            torch.from_numpy(rows['attention']),
            torch.from_numpy(rows['labels_by_pillow']),
            source.grid(form),
            mass=settings.mass,
            objects=settings.objects,
            without_objects=settings.without_objects,
        )
        zero = settings.without_objects == 'zero'
        best = found.best_head.nan_to_num(0.0) if zero else found.best_head
        statistics = {f'{base}_best_head': mean_score(best), f'{base}_merged': mean_score(found.merged)}
        metrics = {key: found.metrics[f'attention_jaccard_{key.removeprefix(base + "_")}'] for key in statistics}
        notes: tuple[str, ...] = ()
        if found.without_objects:
            notes = (
                f'{found.without_objects} of {len(best)} images without an object {"count 0" if zero else "are skipped"} '
                'in best_head',
            )
        return Outcome(metrics, statistics, len(best), notes)

    return alone(score)


RUNNERS: dict[str, Callable[..., Outcome | None]] = {
    'hummingbird': hummingbird,
    'patch-knn': patch_knn,
    'patch-logistic': patch_logistic,
    'cluster': cluster,
    'overcluster': cluster,
    'attention': attention,
}
