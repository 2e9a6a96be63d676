"""What the dense suite will run: benchmarks found, settings that fit the backbone, results that exist already."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mmadclr.checkpoint.architecture import IMAGENET_MEAN, IMAGENET_STD
from mmadclr.datasets.benchmarks import BENCHMARKS, Benchmark, benchmark_kind, open_benchmark
from mmadclr.datasets.benchmarks.types import PairBenchmark, SegmentationBenchmark, VideoBenchmark
from mmadclr.evaluation.dense.davis import MULTIPLE
from mmadclr.evaluation.dense.hummingbird import patches_per_image
from mmadclr.evaluation.suite.fingerprints import fingerprint
from mmadclr.evaluation.suite.records import differences, plain, read_record, record_path
from mmadclr.evaluation.suite.settings import (
    PROTOCOLS,
    Attention,
    Cluster,
    Davis,
    DinoSeg,
    Hummingbird,
    Linear,
    LinearDinov2,
    PatchKnn,
    PatchLogistic,
    Settings,
    check_name,
)
from mmadclr.hub.opening import OpenedBackbone
from mmadclr.models.backbones.dense_features import check_blocks
from mmadclr.models.backbones.query_vit import QueryViT

LEARNED = (Hummingbird, PatchKnn, PatchLogistic, Linear, LinearDinov2)  # use training images
ALIASES = {'ade': 'ade20k'}
JobKey = tuple[str, str]  # benchmark and protocol
NEW, FINISHED, AGAIN = 'to run', 'finished', 'run again'


class UnsuitedError(ValueError):
    """A protocol does not fit the backbone or the images."""


class Job(NamedTuple):
    """A protocol on a benchmark. ``identity``: what its result depends on. ``state``: whether there is one, and if it is not
    used, why. ``scored``: number of scored images, videos or pairs. ``images``: also of training images, as text.
    """

    benchmark: str
    protocol: str
    settings: Settings
    identity: dict[str, Any]
    scored: int
    images: str
    state: str

    @property
    def is_finished(self) -> bool:
        return self.state == FINISHED


def parse_suite(text: str, data_root: str | None) -> dict[str, str]:
    """Folders of benchmarks by name, from ``voc,folder=DIR``; those without folder are below ``data_root``.

    Several of one kind have names of their own: ``folder:aerial=DIR,folder:cells=DIR``.

    Raises:
        ValueError: Unknown or repeated names, names of one's own that are not plain words, or no folder.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(','))):
        name, equals, folder = part.partition('=')
        kind, colon, own = name.partition(':')
        kind = ALIASES.get(kind, kind)
        name = f'{kind}{colon}{own}'
        check_name(kind, BENCHMARKS, 'benchmark')
        if colon and not re.fullmatch(r'[\w-]+', own):
            raise ValueError(f'--suite {name}: the name after the colon must have only letters, digits, _ and -')
        if name in found:
            raise ValueError(f'--suite: {name} is listed twice; give each a name of its own: {kind}:one=DIR,{kind}:two=DIR')
        if not equals and data_root is None:
            raise ValueError(f'--suite {name}: set --data-root DIR, or write {name}=DIR')
        found[name] = folder if equals else str(data_root)
    if not found:
        raise ValueError(f'--suite is empty; choose from {", ".join(BENCHMARKS)}')
    return found


def open_benchmarks(folders: Mapping[str, str]) -> dict[str, Benchmark]:
    """Opens all benchmarks, by the name of what was found: ``voc`` without augmented masks is ``voc_train``.

    Raises:
        FileNotFoundError: Some are missing; the message has all of them.
        ValueError: One is invalid, or two are the same.
    """
    found: dict[str, Benchmark] = {}
    missing = []
    for name, folder in folders.items():
        try:
            opened = open_benchmark(name, folder)
        except (FileNotFoundError, ValueError) as error:
            missing.append(str(error))
            continue
        _, colon, own = name.partition(':')
        actual = f'{opened.name}{colon}{own}'
        if actual in found:
            raise ValueError(f'--suite: {name} of {folder} is {actual}, which is listed as well: remove one of them')
        found[actual] = opened._replace(name=actual)
    if missing:
        raise FileNotFoundError(
            '; '.join(missing) if len(missing) == 1 else f'{len(missing)} benchmarks: {"; ".join(missing)}'
        )
    return found


def unsuited(name: str, backbone: QueryViT) -> str | None:
    """Why a protocol cannot evaluate a backbone, in words."""
    if PROTOCOLS[name].needs_cls and backbone.cls_token is None:
        return 'needs attention of [CLS], but the backbone has no class token'
    if name == 'davis' and MULTIPLE % backbone.patch_size:
        return f'has frame sides that are multiples of {MULTIPLE}, but not of the patch size {backbone.patch_size}'
    return None


def protocols_for(names: Sequence[str] | None, benchmarks: Sequence[str], backbone: QueryViT) -> tuple[list[str], list[str]]:
    """Protocols to run, by default all that suit the benchmarks and the backbone, and notes on those left out.

    Those that take many times as long as the others are not part of the default.

    Raises:
        ValueError: Unknown names, or a named protocol suits no benchmark or not the backbone.
    """
    kinds = {benchmark_kind(name) for name in benchmarks}
    if names is None:
        possible = {name: each for name, each in PROTOCOLS.items() if each.kind in kinds and not each.by_name_only}
        suited = {name: unsuited(name, backbone) for name in possible}
        notes = [f'{name} is left out: it {reason}' for name, reason in suited.items() if reason]
        return [name for name, reason in suited.items() if not reason], notes
    for name in names:
        protocol = PROTOCOLS[check_name(name, PROTOCOLS, 'protocol')]
        if protocol.kind not in kinds:
            others = [other for other in BENCHMARKS if benchmark_kind(other) == protocol.kind]
            raise ValueError(f'--protocols {name} needs a benchmark of another kind: {", ".join(others)}')
        reason = unsuited(name, backbone)
        if reason:
            raise ValueError(f'--protocols: {name} {reason}')
    return list(dict.fromkeys(names)), []


def fitted(name: str, settings: Settings, opened: OpenedBackbone, chosen: bool) -> tuple[Settings, list[str]]:
    """Settings for a backbone, and notes on what was changed.

    Default sizes are rounded down to a multiple of the patch size. Backbones that were trained with another normalization
    than ImageNet's keep theirs.

    Args:
        name: Of the protocol.
        settings: Before.
        opened: Backbone.
        chosen: Whether the user has set the size.

    Raises:
        ValueError: A chosen size is not a multiple of the patch size, or too small; see also :func:`check_recipe`.
        UnsuitedError: The backbone has too few heads or blocks.
    """
    patch, notes = opened.model.patch_size, []
    if PROTOCOLS[name].kind == 'boxes' and settings.size:
        raise ValueError(f'{name}.size={settings.size}: images are encoded at their own size, remove it')
    if settings.size < patch and PROTOCOLS[name].kind != 'boxes':
        raise ValueError(f'{name}.size={settings.size} must be at least the patch size {patch}')
    if settings.size % patch and not isinstance(settings, Davis) and PROTOCOLS[name].kind != 'pairs':
        if chosen:
            raise ValueError(f'{name}.size={settings.size} must be a multiple of the patch size {patch}')
        settings = replace(settings, size=settings.size // patch * patch)
    if isinstance(settings, Davis) and settings.size % patch:
        raise ValueError(f'davis.size={settings.size} must be a multiple of the patch size {patch}')
    plain_settings = PROTOCOLS[name].settings()
    is_imagenet = (opened.mean, opened.std) == (tuple(IMAGENET_MEAN), tuple(IMAGENET_STD))
    if not is_imagenet and (settings.mean, settings.std) == (plain_settings.mean, plain_settings.std):
        settings = replace(settings, mean=tuple(opened.mean), std=tuple(opened.std))
        notes.append(f'{name}: mean and std of the checkpoint are used instead of the published ones')
    if isinstance(settings, LinearDinov2):
        check_recipe(name, settings, len(opened.model.blocks))
    if isinstance(settings, DinoSeg) and settings.head >= opened.model.blocks[-1].attn.num_heads:
        heads = opened.model.blocks[-1].attn.num_heads
        raise UnsuitedError(
            f'dino-seg.head={settings.head}: the backbone has {heads} heads; choose one: --set dino-seg.head=0'
        )
    return settings, notes


def check_recipe(name: str, settings: LinearDinov2, depth: int) -> None:
    """Checks the settings of a head against each other and against a backbone of ``depth`` blocks.

    Raises:
        ValueError: Windows with gaps, a warm-up that does not end, or dropout of everything.
        UnsuitedError: Blocks that do not exist.
    """
    if settings.stride > settings.size:
        raise ValueError(f'{name}.stride={settings.stride} must be at most {name}.size={settings.size}')
    if settings.warmup >= settings.iterations:
        raise ValueError(f'{name}.warmup={settings.warmup} must be below {name}.iterations={settings.iterations}')
    if settings.dropout >= 1:
        raise ValueError(f'{name}.dropout={settings.dropout} must be below 1')
    try:
        check_blocks(settings.blocks, depth)
    except ValueError as error:
        raise UnsuitedError(f'{name}.{error}: choose others with --set {name}.blocks=...') from error


def check_counts(name: str, settings: Settings, benchmark: Benchmark, patch: int) -> None:
    """Checks the numbers of neighbors and clusters before features are computed.

    Raises:
        UnsuitedError: There are more than patches, or too few images.
        ValueError: ``void_as`` is not a class.
    """
    if not isinstance(benchmark, SegmentationBenchmark):
        return
    per_image = (settings.size // patch) ** 2
    train, val = (len(images) for images in (benchmark.train, benchmark.val))
    if not val or (not train and isinstance(settings, LEARNED)):
        raise UnsuitedError(f'{benchmark.name}: {name} needs training and validation images')
    if isinstance(settings, Hummingbird):
        memory = settings.memory or train * settings.epochs * per_image
        bank = train * settings.epochs * min(per_image, patches_per_image(memory, train, settings.epochs))
        _check_most(f'{name}.k', settings.k, bank, f'patches in the bank of {benchmark.name}')
        if settings.void_as >= len(benchmark.classes):
            raise ValueError(f'{name}.void_as={settings.void_as} must be one of the {len(benchmark.classes)} classes')
    elif isinstance(settings, PatchKnn):
        _check_most(f'{name}.k', max(settings.k), train * per_image, f'training patches of {benchmark.name}')
        if train < 10 and len(settings.k) * len(settings.distance) > 1:
            raise UnsuitedError(
                f'{benchmark.name}: {train} training images, of which none is held out to choose k and distance; use at '
                'least 10, or set one: --set patch-knn.k=30 patch-knn.distance=cosine'
            )
    elif isinstance(settings, PatchLogistic) and train < 10 and len(settings.strengths) > 1:
        raise UnsuitedError(
            f'{benchmark.name}: {train} training images, of which none is held out to choose C; use at least 10, or set '
            'one: --set patch-logistic.strengths=1'
        )
    elif isinstance(settings, Cluster):
        what = f'patches of the validation images of {benchmark.name}'
        _check_most(f'{name}.k', settings.k or len(benchmark.classes), val * per_image, what)
        _check_most(f'{name}.pca', settings.pca, val * per_image, what)


def _check_most(key: str, value: int, most: int, what: str) -> None:
    if value > most:
        raise UnsuitedError(f'{key}={value} must be at most {most}, the number of {what}')


def with_objects(settings: Attention, benchmark: Benchmark) -> Attention:
    """Settings that score the objects of a benchmark.

    ``objects='published'`` drops the lowest and the highest label, which are background and void in VOC, and may be objects
    elsewhere.

    Raises:
        UnsuitedError: No class is background.
    """
    if not isinstance(benchmark, SegmentationBenchmark) or benchmark.name.partition(':')[0] in ('voc', 'voc_train'):
        return settings
    if benchmark.background is None:
        raise UnsuitedError(
            f'{benchmark.name}: no class is background, so that it is not known what objects are; to score all labels but 0 '
            'and 255: --set attention.objects=labels'
        )
    return replace(settings, objects='labels')


def suited_settings(
    settings: Mapping[str, Settings],
    benchmarks: Mapping[str, Benchmark],
    opened: OpenedBackbone,
    changed: Collection[str],
    wanted: Collection[str],
) -> tuple[dict[JobKey, Settings], list[str]]:
    """Settings by benchmark and protocol that fit the backbone and the images, and notes on what was changed or left out.

    Args:
        settings: By protocol.
        benchmarks: By name.
        opened: Backbone.
        changed: ``protocol.setting`` that the user has set.
        wanted: Protocols that are an error if they do not fit; others are left out.

    Raises:
        UnsuitedError: A wanted protocol does not fit, or none is left.
        ValueError: See :func:`fitted` and :func:`check_counts`.
    """
    found: dict[JobKey, Settings] = {}
    notes = []
    for name, values in settings.items():
        for key, benchmark in benchmarks.items():
            if PROTOCOLS[name].kind != benchmark_kind(key):
                continue
            try:
                fit, more = fitted(name, values, opened, f'{name}.size' in changed)
                if isinstance(fit, Attention) and f'{name}.objects' not in changed:
                    fit = with_objects(fit, benchmark)
                check_counts(name, fit, benchmark, opened.model.patch_size)
            except UnsuitedError as error:
                if name in wanted:
                    raise
                notes.append(f'{key} {name} is left out: {error}')
                continue
            found[key, name] = fit
            notes += more
    if not found:
        raise UnsuitedError('; '.join(notes) or 'no protocol fits the benchmarks')
    return found, list(dict.fromkeys(notes))


def scored_units(benchmark: Benchmark) -> int:
    """Number of validation images, videos, pairs or images with boxes."""
    if isinstance(benchmark, SegmentationBenchmark):
        return len(benchmark.val)
    if isinstance(benchmark, VideoBenchmark):
        return len(benchmark.videos)
    return len(benchmark.pairs if isinstance(benchmark, PairBenchmark) else benchmark.images)


def count_text(benchmark: Benchmark, protocol: str) -> str:
    """How many images a protocol reads."""
    count = str(scored_units(benchmark))
    if isinstance(benchmark, SegmentationBenchmark):
        with_training = issubclass(PROTOCOLS[protocol].settings, LEARNED)
        return f'{len(benchmark.train)} + {count}' if with_training else count
    return count + {VideoBenchmark: ' videos', PairBenchmark: ' pairs'}.get(type(benchmark), '')


def plan_jobs(
    benchmarks: Mapping[str, Benchmark], settings: Mapping[JobKey, Settings], common: Mapping[str, Any], folder: Path
) -> list[Job]:
    """Jobs in the order of the benchmarks, with their states.

    Args:
        benchmarks: By name.
        settings: By benchmark and protocol.
        common: What all results depend on.
        folder: Of the suite.

    Raises:
        FileNotFoundError: See ``fingerprint``.
        ValueError: A file in the folder is not a result.
    """
    jobs = []
    for benchmark, opened in benchmarks.items():
        found = fingerprint(opened)
        for (other, name), values in settings.items():
            if other != benchmark:
                continue
            own = {'images': found.images, 'file times': found.times, 'protocol': name, 'settings': vars(values)}
            identity = plain({**common, **own})
            state = state_of(record_path(folder, benchmark, name), identity)
            jobs.append(Job(benchmark, name, values, identity, scored_units(opened), count_text(opened, name), state))
    return jobs


def state_of(path: Path, identity: Mapping[str, Any]) -> str:
    """Whether a result exists and has the same identity.

    Raises:
        ValueError: See ``read_record``.
    """
    record = read_record(path)
    if record is None:
        return NEW
    changed = differences(record['identity'], identity)
    return f'{AGAIN}: {", ".join(changed)}' if changed else FINISHED
