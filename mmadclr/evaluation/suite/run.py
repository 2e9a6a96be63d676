"""Runs the dense suite: one benchmark after the other, every protocol's result written as soon as it is known."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mmengine import dist
from mmengine.logging import print_log

from mmadclr.datasets.benchmarks.types import (
    Benchmark,
    BoxBenchmark,
    PairBenchmark,
    SegmentationBenchmark,
    VideoBenchmark,
)
from mmadclr.evaluation.suite.boxes import discovery
from mmadclr.evaluation.suite.encoder import DenseEncoder
from mmadclr.evaluation.suite.linear import linear
from mmadclr.evaluation.suite.linear_crops import linear_crops
from mmadclr.evaluation.suite.outcomes import Outcome, sampled
from mmadclr.evaluation.suite.pairs import spair
from mmadclr.evaluation.suite.passes import Loading, alone
from mmadclr.evaluation.suite.plan import Job
from mmadclr.evaluation.suite.records import record_path, write_record
from mmadclr.evaluation.suite.segmentation import BANK, RUNNERS, form_of, inputs_of
from mmadclr.evaluation.suite.settings import Davis, DinoSeg, Linear, LinearDinov2, Lost, Spair, TokenCut
from mmadclr.evaluation.suite.source import Source
from mmadclr.evaluation.suite.videos import davis

FEATURES = 'features'


class Options(NamedTuple):
    """``folder``: of results and features. ``digest``: of the weights. ``draws``: of the bootstrap. ``keep``: features."""

    folder: Path
    loading: Loading
    dtype: str
    digest: str
    draws: int
    keep: bool = False


def run_jobs(jobs: Sequence[Job], benchmarks: Mapping[str, Benchmark], encoder: DenseEncoder, options: Options) -> None:
    """Runs all jobs that are not finished, and writes their results; on every process.

    Raises:
        ValueError, FileNotFoundError: See the protocols. Results of finished jobs are kept.
    """
    for name, benchmark in benchmarks.items():
        waiting = [job for job in jobs if job.benchmark == name and not job.is_finished]
        if waiting:
            _run_benchmark(benchmark, waiting, encoder, options)
        _remove_empty(options.folder / FEATURES / name)


def _run_benchmark(benchmark: Benchmark, jobs: Sequence[Job], encoder: DenseEncoder, options: Options) -> None:
    if isinstance(benchmark, SegmentationBenchmark):
        _run_segmentation(benchmark, jobs, encoder, options)
    elif isinstance(benchmark, BoxBenchmark):
        started = time.monotonic()
        methods = {job.protocol: job.settings for job in jobs if isinstance(job.settings, Lost | TokenCut | DinoSeg)}
        with named(*jobs):
            found = discovery(benchmark, encoder, methods, options.loading.workers)
        for job in jobs:
            _finish(job, found[job.protocol], started, options)
    else:
        for job in jobs:
            with named(job):
                _timed(job, partial(_single, benchmark, job, encoder, options), options)
            _remove(features_of(job, options), options)


@contextmanager
def named(*jobs: Job) -> Iterator[None]:
    """Adds benchmark and protocols to the message of an error; errors of a file have its name."""
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise ValueError(f'{error} ({jobs[0].benchmark}: {", ".join(job.protocol for job in jobs)})') from error


def _single(benchmark: VideoBenchmark | PairBenchmark, job: Job, encoder: DenseEncoder, options: Options) -> Outcome | None:
    settings = job.settings
    if isinstance(benchmark, VideoBenchmark):
        assert isinstance(settings, Davis)
        return davis(benchmark, encoder, settings, options.loading)
    assert isinstance(settings, Spair)
    return spair(benchmark, encoder, settings, options.loading, options.dtype, features_of(job, options), options.digest)


def features_of(job: Job, options: Options) -> Path:
    """Folder of features that only one protocol uses."""
    return options.folder / FEATURES / job.benchmark / job.protocol


def _remove(folder: Path, options: Options) -> None:
    """Removes features that are not needed any more; those of protocols that are not part of this run stay."""
    if not options.keep and dist.is_main_process():
        shutil.rmtree(folder, ignore_errors=True)


def _remove_empty(folder: Path) -> None:
    if dist.is_main_process():
        with suppress(OSError):  # other features are left, or there were none
            folder.rmdir()
            folder.parent.rmdir()


def _run_segmentation(
    benchmark: SegmentationBenchmark, jobs: Sequence[Job], encoder: DenseEncoder, options: Options
) -> None:
    folder = options.folder / FEATURES / jobs[0].benchmark
    source = Source(benchmark, encoder, options.loading, options.dtype, folder, options.digest)
    left = {job.protocol: {(split, form_of(job.settings)) for split in inputs_of(job.settings)} for job in jobs}
    for job in jobs:
        for split, kinds in inputs_of(job.settings).items():
            source.plan(split, form_of(job.settings), kinds)
    for job in jobs:
        with named(job):
            _timed(job, partial(runner_of(job), source, job.settings), options)
        if job.protocol == 'hummingbird':
            _remove(folder / BANK, options)
        done = left.pop(job.protocol)
        for split, form in done - set().union(*left.values()):
            source.forget(split, form, options.keep)


def runner_of(job: Job) -> Callable[..., Outcome | None]:
    """Function that runs a protocol on a segmentation benchmark."""
    if isinstance(job.settings, LinearDinov2):
        return linear_crops
    return linear if isinstance(job.settings, Linear) else RUNNERS[job.protocol]


def _timed(job: Job, work: Callable[[], Outcome | None], options: Options) -> None:
    started = time.monotonic()
    _finish(job, work(), started, options)


def _finish(job: Job, outcome: Outcome | None, started: float, options: Options) -> None:
    """Writes the result of a job, by the main process."""

    def write() -> None:
        assert outcome is not None
        found = sampled(outcome, options.draws)
        record: dict[str, Any] = dict(
            identity=job.identity,
            metrics=found.metrics,
            samples=found.samples,
            units=outcome.units,
            notes=list(outcome.notes),
            about=dict(outcome.about),
            seconds=time.monotonic() - started,
        )
        write_record(record_path(options.folder, job.benchmark, job.protocol), record)
        print_log(f'{job.benchmark} {job.protocol}: finished in {record["seconds"]:.0f} s', 'current')

    alone(write)
