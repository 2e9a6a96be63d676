"""Semantic correspondence on a pair benchmark: features of every image are computed once, then its pairs are matched.

Shape legend: N images, K keypoints, D channels, h x w patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmadclr.datasets.benchmarks.types import PairBenchmark, PointPair
from mmadclr.evaluation.dense.bootstrap import category_score, mean_score
from mmadclr.evaluation.dense.spair import PairErrors, match_points, pair_errors, scaled_points, summarize_pairs
from mmadclr.evaluation.suite.encoder import DenseEncoder
from mmadclr.evaluation.suite.fingerprints import sizes_and_times
from mmadclr.evaluation.suite.forms import normalized, read_image
from mmadclr.evaluation.suite.outcomes import Outcome
from mmadclr.evaluation.suite.passes import Arrays, Loading, checked_rows, compute_rows, digest_of, shared_out
from mmadclr.evaluation.suite.settings import Spair, metric_base

WHITE = (255, 255, 255)
VIEWPOINTS = (0, 1, 2)


def padded_square(image: Image.Image) -> Image.Image:
    """The image with white at the right or bottom, as a square."""
    side = max(image.size)
    square = Image.new('RGB', (side, side), WHITE)
    square.paste(image)
    return square


def pair_input(path: str, settings: Spair) -> Tensor:
    """(3, S, S) network input of an image, as in probe3d's ``datasets/spair.py``."""
    square = padded_square(read_image(path)).resize((settings.size,) * 2, Image.Resampling.BICUBIC)
    return normalized(np.asarray(square), settings.mean, settings.std)


def chosen_pairs(benchmark: PairBenchmark, settings: Spair) -> list[PointPair]:
    """Pairs to evaluate: all, or some of each category, drawn in the order of the benchmark."""
    pairs = list(benchmark.pairs)
    if not settings.per_category:
        return pairs
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(settings.seed)).tolist()
    kept: list[int] = []
    for category in benchmark.categories:
        kept += [place for place in order if pairs[place].category == category][: settings.per_category]
    return [pairs[place] for place in sorted(kept)]


def encoded_images(
    paths: Sequence[str],
    encoder: DenseEncoder,
    settings: Spair,
    loading: Loading,
    dtype: str,
    folder: Path | None,
    digest: str,
) -> np.ndarray:
    """(N, P, D) features before the final norm."""
    patches = (-(-settings.size // encoder.patch_size)) ** 2

    def compute(images: list[Tensor]) -> Mapping[str, np.ndarray]:
        rows = encoder(padded_centrally(torch.stack(images), encoder.patch_size), ['patch_before_norm'])
        return {'features': checked_rows(rows['patch_before_norm'], dtype)}

    identity = dict(
        images=digest_of([list(paths), sizes_and_times(paths)]), settings=str(settings), weights=digest, dtype=dtype
    )
    return compute_rows(
        lambda index: pair_input(paths[index], settings),
        compute,
        len(paths),
        {'features': Arrays((patches, encoder.width), dtype)},
        loading,
        f'spair {settings.size}',
        folder,
        identity,
    )['features']


def padded_centrally(images: Tensor, multiple: int) -> Tensor:
    """Pads (B, 3, H, W) with zeros on all sides to multiples; the odd pixel at the right and bottom, as in probe3d."""
    height, width = (-side % multiple for side in images.shape[-2:])
    return torch.nn.functional.pad(images, (width // 2, width - width // 2, height // 2, height - height // 2))


def spair(
    benchmark: PairBenchmark,
    encoder: DenseEncoder,
    settings: Spair,
    loading: Loading,
    dtype: str = 'float32',
    folder: Path | None = None,
    digest: str = '',
) -> Outcome:
    """See ``dense.spair``: both averages, and the first one by difference of viewpoints; pairs are shared out.

    Raises:
        ValueError: An image cannot be read, or a pair is invalid; names it.
    """
    pairs = chosen_pairs(benchmark, settings)
    paths = sorted({path for pair in pairs for path in (pair.source, pair.target)})
    features = encoded_images(paths, encoder, settings, loading, dtype, folder, digest)
    places = {path: number for number, path in enumerate(paths)}

    def work(index: int) -> PairErrors:
        pair = pairs[index]
        source, target = (torch.from_numpy(features[places[path]]).to(encoder.device) for path in (pair.source, pair.target))
        try:
            return errors_of(pair, source, target, settings)
        except ValueError as error:
            raise ValueError(f'pair {pair.name}: {error}') from error

    found = shared_out(len(pairs), lambda index: index, work, f'{benchmark.name} pairs')
    return _outcome(pairs, found, settings)


def errors_of(pair: PointPair, source: Tensor, target: Tensor, settings: Spair) -> PairErrors:
    """Errors of a pair, in units of the larger side of the target's box, from features (P, D) of both images."""
    side = round(len(source) ** 0.5)
    source_map, target_map = (rows.float().T.unflatten(1, (side, side)) for rows in (source, target))
    points, expected = (
        scaled_points(points, settings.size / max(size), settings.truncate) / settings.size
        for points, size in ((pair.source_points, pair.source_size), (pair.target_points, pair.target_size))
    )
    scale = box_side(pair) / max(pair.target_size)
    matches = match_points(source_map, target_map, points, settings.cell, settings.align_corners)
    visible = torch.ones(len(points), dtype=torch.bool)
    errors = pair_errors(matches.positions.cpu(), expected, visible, scale, pair.category)
    return errors._replace(errors=errors.errors.cpu())


def box_side(pair: PointPair) -> float:
    """Larger side of the target's box in pixels."""
    left, top, right, bottom = pair.target_box.tolist()
    return max(right - left, bottom - top)


def _outcome(pairs: Sequence[PointPair], found: Sequence[PairErrors], settings: Spair) -> Outcome:
    base, result = metric_base('spair', settings), summarize_pairs(found, settings.alpha)
    below = torch.tensor([float((each.errors < settings.alpha).sum()) for each in found])
    counts = torch.tensor([len(each.errors) for each in found])
    shares = torch.tensor([float('nan') if share is None else share for share in result.pairs])
    categories = [pair.category for pair in pairs]
    metrics = {f'{base}_per_{by}': value for by, value in zip(('point', 'pair'), result.metrics.values(), strict=True)}
    statistics = {
        f'{base}_per_point': category_score(below, counts, categories),
        f'{base}_per_pair': mean_score(shares),
    }
    for view in VIEWPOINTS:
        some = [errors for pair, errors in zip(pairs, found, strict=True) if pair.viewpoint == view]
        if any(len(errors.errors) for errors in some):
            value = next(iter(summarize_pairs(some, settings.alpha).metrics.values()))
            metrics[f'{base}_per_point_viewpoint{view}'] = value
            seen = torch.tensor([pair.viewpoint == view for pair in pairs])
            statistics[f'{base}_per_point_viewpoint{view}'] = category_score(below * seen, counts * seen, categories)
    notes = (f'{result.left_out} of {len(found)} pairs without a common point are not scored',) if result.left_out else ()
    about = {'categories': {str(name): 100 * value for name, value in result.categories.items()}}
    return Outcome(metrics, statistics, len(found), notes, about)
