"""What results depend on besides weights and settings: the files of a benchmark."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from mmadclr.datasets.benchmarks import Benchmark
from mmadclr.datasets.benchmarks.types import BoxBenchmark, SegmentationBenchmark, VideoBenchmark
from mmadclr.evaluation.suite.passes import digest_of


class Fingerprint(NamedTuple):
    """Hashes. ``images``: names, sizes in bytes, and annotations: equal for a copy. ``times``: of the last changes."""

    images: str
    times: str


def fingerprint(benchmark: Benchmark) -> Fingerprint:
    """Of a benchmark, without reading an image or mask; annotations of boxes and points are read.

    Raises:
        FileNotFoundError: A file was removed after it was listed.
    """
    if isinstance(benchmark, SegmentationBenchmark):
        items = [*benchmark.train, *benchmark.val]
        described: Any = [benchmark.classes, len(benchmark.train), [item.name for item in items]]
        files = [path for item in items for path in (item.image, item.mask)]
        # Those that tell the meaning of colors.
        files += sorted(getattr(benchmark.read_labels, 'files', {}).values())
    elif isinstance(benchmark, VideoBenchmark):
        described = [(video.name, len(video.frames)) for video in benchmark.videos]
        files = [path for video in benchmark.videos for path in (*video.frames, *video.annotations)]
    elif isinstance(benchmark, BoxBenchmark):
        images = list(benchmark.images)
        described = [
            (item.name, *(part.tolist() for part in (item.boxes, item.difficult, item.truncated))) for item in images
        ]
        files = [item.image for item in images]
    else:
        pairs = list(benchmark.pairs)
        tensors = [(pair.source_points, pair.target_points, pair.source_box, pair.target_box) for pair in pairs]
        described = [
            (pair.name, pair.viewpoint, *(part.tolist() for part in some)) for pair, some in zip(pairs, tensors, strict=True)
        ]
        files = sorted({path for pair in pairs for path in (pair.source, pair.target)})
    found = sizes_and_times(files)
    return Fingerprint(digest_of([described, [size for size, _ in found]]), digest_of([time for _, time in found]))


def sizes_and_times(files: Iterable[str]) -> list[tuple[int, int]]:
    """Bytes, and time of the last change in nanoseconds, of files."""
    return [(status.st_size, status.st_mtime_ns) for status in map(os.stat, files)]
