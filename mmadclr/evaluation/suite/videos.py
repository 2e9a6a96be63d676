"""Video object segmentation on a video benchmark; videos are shared out to the processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmadclr.datasets.benchmarks.listing import some_of
from mmadclr.datasets.benchmarks.types import Video, VideoBenchmark
from mmadclr.evaluation.dense.bootstrap import Statistic, ratio_score
from mmadclr.evaluation.dense.davis import frame_size, network_input, segment_video
from mmadclr.evaluation.dense.davis_scores import SequenceScores, Statistics, evaluate_sequence, statistics, summarize
from mmadclr.evaluation.suite.encoder import DenseEncoder
from mmadclr.evaluation.suite.forms import read_image
from mmadclr.evaluation.suite.outcomes import Outcome
from mmadclr.evaluation.suite.passes import Loading, batches, shared_out, units_of
from mmadclr.evaluation.suite.settings import Davis, metric_base
from mmadclr.names import printable


class Segmented(NamedTuple):
    """Scores of a video, and its size."""

    name: str
    scores: SequenceScores


def davis(benchmark: VideoBenchmark, encoder: DenseEncoder, settings: Davis, loading: Loading) -> Outcome:
    """See ``dense.davis`` and ``dense.davis_scores``.

    Raises:
        ValueError: A frame or an annotation cannot be read, or a video cannot be scored; names it.
    """
    found = shared_out(
        len(benchmark.videos),
        lambda index: index,
        lambda index: _segmented(benchmark, encoder, benchmark.videos[index], settings, loading),
        f'{benchmark.name} davis',
    )
    base = metric_base('davis', settings)
    metrics = {f'{base}{name.removeprefix("davis")}': value for name, value in summarize([x.scores for x in found]).items()}
    return Outcome(metrics, _statistics(base, found), len(found), _notes(found), _by_video(found))


def _segmented(
    benchmark: VideoBenchmark, encoder: DenseEncoder, video: Video, settings: Davis, loading: Loading
) -> Segmented:
    annotations = annotated(benchmark, video)
    try:
        height, width = annotations.shape[1:]
        size = frame_size((height, width), settings.size)
        grid = (size[0] // encoder.patch_size, size[1] // encoder.patch_size)
        first = np.where(annotations[0] == 255, 0, annotations[0]).astype(np.uint8)
        masks = segment_video(
            encoded_frames(encoder, video, settings, loading),
            first,
            grid,
            encoder.patch_size,
            n_last=settings.n_last,
            radius=settings.radius,
            topk=settings.topk,
            temperature=settings.temperature,
            stretch=settings.stretch,
        )
        return Segmented(video.name, evaluate_sequence(masks, annotations))
    except ValueError as error:
        raise ValueError(f'video {video.name}: {error}') from error


def annotated(benchmark: VideoBenchmark, video: Video) -> np.ndarray:
    """(T, H, W) objects of a video.

    Raises:
        ValueError: An annotation cannot be read, or has another size than the first one; names the file.
    """
    found = [benchmark.read_objects(path) for path in video.annotations]
    for path, objects in zip(video.annotations, found, strict=True):
        if objects.shape != found[0].shape:
            (height, width), (first_height, first_width) = objects.shape, found[0].shape
            raise ValueError(
                f'video {video.name}: {printable(path)} has {width} x {height} pixels, but the first frame has '
                f'{first_width} x {first_height}'
            )
    return np.stack(found)


def encoded_frames(encoder: DenseEncoder, video: Video, settings: Davis, loading: Loading) -> Iterator[Tensor]:
    """(P, D) features of the frames, as they are needed.

    Raises:
        ValueError: A frame cannot be read, has another size than the first one, or is not a multiple of the patch size.
    """
    frames = video.frames

    def read(index: int) -> Tensor:
        return network_input(np.array(read_image(frames[index])), settings.size, settings.mean, settings.std)

    for images in batches(read, units_of(len(frames), loading.batch_size), loading.workers):
        if len({image.shape for image in images}) > 1:
            raise ValueError('its frames must have the same size')
        yield from encoder(torch.stack(images), ['patch'])['patch']


def _statistics(base: str, found: list[Segmented]) -> dict[str, Statistic]:
    """Means over the objects of drawn videos."""
    counts = torch.tensor([len(each.scores.j) for each in found])
    scores: dict[str, Tensor] = {}
    for name in ('j', 'f'):
        sums = torch.tensor(
            [np.sum([statistics(values) for values in getattr(each.scores, name)], axis=0).tolist() for each in found]
        )
        scores |= {f'_{name.upper()}_{key}': sums[:, place] for place, key in enumerate(Statistics._fields)}
    scores['_J&F'] = (scores['_J_mean'] + scores['_F_mean']) / 2
    return {f'{base}{name}': ratio_score(sums, counts) for name, sums in scores.items()}


def _notes(found: list[Segmented]) -> tuple[str, ...]:
    lost = [f'{each.name} {label}' for each in found for label in each.scores.unpredicted]
    late = [f'{each.name} {label}' for each in found for label in each.scores.late]
    notes = []
    if lost:
        notes.append(
            f'objects that are never predicted, and score 0 where they are annotated and 100 elsewhere: {some_of(lost)}'
        )
    if late:
        notes.append(f'objects that are not in the first frame and are not scored: {some_of(late)}')
    return tuple(notes)


def _by_video(found: list[Segmented]) -> dict:
    return {
        'videos': {
            each.name: {'J': 100 * float(each.scores.j.mean()), 'F': 100 * float(each.scores.f.mean())} for each in found
        }
    }
