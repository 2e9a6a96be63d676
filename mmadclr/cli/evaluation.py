"""Shared by commands that evaluate features: the backbone from a checkpoint or a config, features of two sets, the result.

A pretraining config gives the backbone of the randomly initialized teacher, which serves as a baseline.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine import dist
from mmengine.device import get_device
from mmengine.logging import print_log

from mmadclr.checkpoint.architecture import infer_settings
from mmadclr.checkpoint.layouts import find_backbone
from mmadclr.checkpoint.loading import architecture, describe_backbone
from mmadclr.checkpoint.weights import fill
from mmadclr.config.loading import load_config
from mmadclr.datasets.center_crop import short_side
from mmadclr.datasets.image_dataset import ImageDataset
from mmadclr.datasets.listing import built_alike, check_same_images
from mmadclr.datasets.subsets import few_shot
from mmadclr.datasets.walking import subfolders
from mmadclr.evaluation.extraction import Loading, extract
from mmadclr.evaluation.extractor import FeatureExtractor, default_features
from mmadclr.evaluation.feature_cache import cached_features, fingerprint
from mmadclr.evaluation.rows import FeatureSet
from mmadclr.files import atomic_path, check_writable
from mmadclr.hub.opening import OpenedBackbone, open_backbone
from mmadclr.models.backbones.feature_vit import FeatureViT
from mmadclr.models.backbones.query_vit import QueryViT
from mmadclr.models.selfsup import SelfDistillation
from mmadclr.names import printable
from mmadclr.registry import MODELS
from mmadclr.reliability.loader_guard import default_workers
from mmadclr.shipped import find_config, is_shipped

INPUTS = ('checkpoint', 'which', 'prefix', 'train', 'val')
SEED = 0  # of random initialization, if the config has no seed
Z95 = statistics.NormalDist().inv_cdf(0.975)


def pixel_arguments(args: Namespace) -> dict:
    """The pixel arguments, as arguments of a data set."""
    return dict(value_range=args.value_range, bands=args.bands, max_pixels=args.max_pixels)


def workers(args: Namespace) -> int:
    """``--workers``, or the default for this machine."""
    return default_workers() if args.workers is None else args.workers


def start_processes(args: Namespace, *outputs: str | None) -> None:
    """Checks that results can be written, and joins the processes of the launcher.

    Raises:
        UnwritableError: ``--out`` or another of the ``outputs`` (None: not requested) cannot be written.
    """
    for path in filter(None, (args.out, *outputs)):
        check_writable(path)
    join_processes(args)


def join_processes(args: Namespace, device: str | None = None) -> None:
    """Joins the processes of the launcher, by gloo if there is no GPU or ``device`` is the CPU."""
    if args.launcher == 'none':
        return
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.launcher == 'pytorch' and (device == 'cpu' or not torch.cuda.is_available()):
        torch.distributed.init_process_group('gloo')
    else:
        dist.init_dist(args.launcher)


def open_source(args: Namespace) -> OpenedBackbone:
    """The backbone of ``checkpoint``, on the device.

    Raises:
        FileNotFoundError, ValueError: See ``open_backbone``; also if a config is not a pretraining config.
    """
    if args.checkpoint.endswith('.py') or is_shipped(args.checkpoint):
        if args.prefix is not None:
            raise ValueError(
                f'--prefix {args.prefix}: {args.checkpoint} is a config and contains no weights; omit the option'
            )
        opened = open_config(args.checkpoint, args.num_heads)
    else:
        opened = open_backbone(args.checkpoint, args.which, args.prefix, args.num_heads, facts=dict(args.fact))
    opened.model.to(get_device())
    return opened


def open_config(filename: str, num_heads: int | None = None) -> OpenedBackbone:
    """The teacher backbone of a pretraining config before the first step.

    The weights equal those of a run: they are initialized with the seed of the config.

    Raises:
        FileNotFoundError, ValueError: The config does not exist, its model is not one of our methods or has no ``QueryViT``,
            or ``num_heads`` is given.
    """
    filename = str(find_config(filename))
    cfg = load_config(Namespace(config=filename, cfg_options={}, work_dir=None))
    check_method(filename, cfg.get('model') or {})
    if num_heads is not None:
        raise ValueError(f'--num-heads {num_heads}: {filename} sets the number of heads; omit the option')
    seed = (cfg.get('randomness') or {}).get('seed')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED if seed is None else seed)
        model = MODELS.build(cfg.model)
        model.init_weights()
        meta = dict(architecture=architecture(model), backbone=describe_backbone(model))
        weights = find_backbone(dict(meta=meta, state_dict=model.state_dict()))
        settings = infer_settings(weights)
        backbone = FeatureViT(**settings)
    print_log(f'{filename}: random initialization', 'current')
    fill(backbone, weights, filename)
    return OpenedBackbone(backbone, settings, backbone.patch_embed.img_size, weights.about['mean'], weights.about['std'])


def check_method(filename: str, model: Mapping) -> None:
    """Checks that the ``model`` of a config is one of our pretraining methods, with a ``QueryViT`` backbone.

    Raises:
        ValueError: It is not; names the wrong part and says what to give instead.
    """
    backbone = model.get('backbone') or {}
    for part, cls, kind in ((model, SelfDistillation, 'pretraining method'), (backbone, QueryViT, 'QueryViT')):
        name = str(part.get('type')).removeprefix('mmadclr.')
        found = None if '.' in name else MODELS.get(name)  # a name with a dot is of another library
        if not (isinstance(found, type) and issubclass(found, cls)):
            what = 'model' if part is model else 'backbone'
            raise ValueError(
                f'{filename}: its {what} ({part.get("type")}) is not a {kind} of mmadclr; give a pretraining config or a '
                'checkpoint'
            )


class EvaluationSets(NamedTuple):
    """Features of two image sets.

    ``draws``: for each run, the indices in ``train`` of the images to learn from (None for all). ``about``: the settings of
    the features, which are part of the result.
    """

    train: FeatureSet
    val: FeatureSet
    draws: list[np.ndarray | None]
    about: dict


def load_features(args: Namespace, task: str, least: int = 1) -> EvaluationSets:
    """Features of training and validation images. Without a cache, only drawn training images are extracted.

    Args:
        args: Arguments of :mod:`mmadclr.cli.evaluation_arguments`.
        task: ``'knn'`` or ``'linear'``.
        least: Smallest number of images to learn from.

    Raises:
        FileNotFoundError, ValueError: The sets cannot be read, have different classes or too few images, or the cache
            contains other features.
        UnreadableImageError: Too many images cannot be read.
    """
    if args.runs > 1 and args.shots is None:
        raise ValueError(f'--runs {args.runs} requires --shots, the number of images to draw for each class')
    if args.refresh and not args.cache:
        raise ValueError('--refresh requires --cache DIR, the cache to extract again')
    opened = open_source(args)
    features = args.features or default_features(opened.model, task)
    model = FeatureExtractor(opened, features, args.precision).to(get_device())
    datasets = build_datasets(args, args.size or min(opened.img_size))
    draws = draw(args, datasets['train'])
    count = len(datasets['train']) if draws[0] is None else len(draws[0])
    if count < least:
        raise ValueError(
            f'--k {least} requires {least} images to learn from, but there are only {count}: choose a smaller k'
        )
    drawn = [images for images in draws if images is not None]
    wanted = {'train': np.unique(np.concatenate(drawn)) if drawn else None, 'val': None}
    loading = Loading(args.batch_size, workers(args), args.max_unreadable)
    found = []
    for name, dataset in datasets.items():
        if args.cache:
            expected = fingerprint(opened, dataset, features, args.dtype, args.precision)
            folder = Path(args.cache, f'{name}-{features}')
            found.append(cached_features(folder, model, dataset, expected, loading, args.refresh))
        else:
            found.append(extract(model, dataset, loading, args.dtype, wanted[name], sharded=task == 'knn'))
    transform = datasets['val'].transform
    used = found[0].indices if draws[0] is None else np.intersect1d(found[0].indices, draws[0])
    about = dict(
        features=features,
        resize=transform.resize,
        size=transform.size,
        read=transform.backend,
        precision=args.precision,
        shots=args.shots,
        train_images=len(used),
        val_images=len(found[1].labels),
        inputs={key: getattr(args, key) for key in INPUTS if getattr(args, key) is not None},
    )
    train, val = found
    return EvaluationSets(train, val, draws, about)


def draw(args: Namespace, dataset: ImageDataset) -> list[np.ndarray | None]:
    """For each run, the indices of the images to learn from; None (all) without ``--shots``."""
    if args.shots is None:
        return [None]
    names = np.array(dataset.metainfo['classes'])[dataset.labels]  # so that errors contain the names
    return [few_shot(names, args.shots, seed) for seed in range(args.seed, args.seed + args.runs)]


def build_datasets(args: Namespace, size: int) -> dict[str, ImageDataset]:
    """Training and validation images at ``size`` pixels, after a check that both have the same classes.

    Called on all processes, which must list the same images.
    """
    transform = dict(type='ResizeCenterCrop', resize=args.resize or short_side(size), size=size, backend=args.read)
    places = {'train': (args.train, args.train_list), 'val': (args.val, args.val_list)}

    def build() -> dict[str, ImageDataset]:
        settings = dict(with_label=True, shards=args.shards, **pixel_arguments(args))
        return {name: ImageDataset(root, dict(transform), ann_file, **settings) for name, (root, ann_file) in places.items()}

    datasets = built_alike(build, *filter(None, [args.cache]))
    for dataset in datasets.values():
        check_same_images(dataset)
    check_classes(**datasets, in_folders=not (args.train_list or args.val_list or args.shards))
    return datasets


def check_classes(train: ImageDataset, val: ImageDataset, in_folders: bool) -> None:
    """Checks that both sets have the same classes, and that every class has training images.

    Raises:
        ValueError: They do not; names a class.
    """
    for dataset in (train, val) if in_folders else ():
        for name in map(printable, subfolders(dataset.data_root)):
            if name not in dataset.metainfo['classes']:
                folder = printable(Path(dataset.data_root, name))
                raise ValueError(f'class folder {folder} contains no images: add images or remove the folder')
    classes = [dataset.metainfo['classes'] for dataset in (train, val)]
    if classes[0] != classes[1]:
        alone = sorted(set(classes[0]) ^ set(classes[1]))[:4]
        raise ValueError(
            f'{train.data_root} and {val.data_root} have different classes, {len(classes[0])} and {len(classes[1])} of them '
            f'(in only one: {", ".join(alone) or "none, but the order differs"}): their labels are not comparable'
        )
    missing = np.flatnonzero(np.bincount(train.labels, minlength=len(classes[0])) == 0)
    if len(missing):
        raise ValueError(f'{train.data_root}: class {classes[0][missing[0]]} has no training images')


def over_draws(sets: EvaluationSets, evaluate: Callable[[FeatureSet], dict]) -> dict:
    """Metrics of ``evaluate(training images)``; for several draws, mean and standard deviation of accuracies."""
    runs = [evaluate(sets.train if drawn is None else sets.train.select(drawn)) for drawn in sets.draws]
    return runs[0] if len(runs) == 1 else summarize(runs)


def summarize(runs: Sequence[Mapping[str, float]]) -> dict:
    """Mean and sample standard deviation of each accuracy over runs, and the metrics of each run."""
    metrics: dict = {}
    for name in (name for name in runs[0] if 'top' in name):
        values = [run[name] for run in runs]
        metrics |= {name: statistics.fmean(values), f'{name}_std': statistics.stdev(values)}
    return {**metrics, 'runs': [dict(run) for run in runs]}


def finish(args: Namespace, metrics: Mapping) -> None:
    """Prints a result as JSON without tables and inputs, and writes the full result to ``--out``; main process only."""
    if not dist.is_main_process():
        return
    metrics = rounded(with_intervals(metrics))
    print(json.dumps({name: value for name, value in metrics.items() if not isinstance(value, (list, dict))}, indent=1))
    if args.out:
        with atomic_path(args.out) as temporary:
            temporary.write_text(json.dumps(metrics, indent=1) + '\n')


def with_intervals(metrics: Mapping) -> dict:
    """Adds ``<name>_ci95``, Wilson's interval over ``val_images`` images, to accuracies in percent of single runs."""
    images = metrics.get('val_images')
    names = [name for name in metrics if name.endswith(('top1', 'top5')) and f'{name}_std' not in metrics]
    if not images:
        return dict(metrics)
    intervals = {}
    for name in names:
        share = metrics[name] / 100
        middle = share + Z95**2 / (2 * images)
        half = Z95 * math.sqrt(share * (1 - share) / images + (Z95 / (2 * images)) ** 2)
        intervals[f'{name}_ci95'] = [100 * (middle + sign * half) / (1 + Z95**2 / images) for sign in (-1, 1)]
    return {**metrics, **intervals}


def rounded(node):
    """Nested values, rounded to two digits except for learning rates, which can be small."""
    if isinstance(node, Mapping):
        return {key: value if 'lr' in key.split('_') else rounded(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [rounded(value) for value in node]
    return round(node, 2) if isinstance(node, float) else node
