"""What commands that evaluate features share: a backbone from a checkpoint or a config, features of two sets, the result.

The config may be any of ours for pretraining; its backbone is then the randomly initialized teacher's, the baseline.
"""

from __future__ import annotations

import json
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
SEED = 0  # of random initialization, where the config has none


def pixel_arguments(args: Namespace) -> dict:
    """The same as arguments of a data set."""
    return dict(value_range=args.value_range, bands=args.bands, max_pixels=args.max_pixels)


def workers(args: Namespace) -> int:
    """``--workers``, or what fits this machine."""
    return default_workers() if args.workers is None else args.workers


def start_processes(args: Namespace, *outputs: str | None) -> None:
    """Joins the processes of the launcher, over gloo where there is no GPU.

    Raises:
        UnwritableError: ``--out`` or another of the ``outputs`` (None: not asked for) could not be written in the end.
    """
    for path in filter(None, (args.out, *outputs)):
        check_writable(path)
    if args.launcher == 'none':
        return
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.launcher == 'pytorch' and not torch.cuda.is_available():
        torch.distributed.init_process_group('gloo')
    else:
        dist.init_dist(args.launcher)


def open_source(args: Namespace) -> OpenedBackbone:
    """The backbone that ``checkpoint`` names, on the device to work on.

    Raises:
        FileNotFoundError, ValueError: See ``open_backbone``; also for a config that is not one of pretraining.
    """
    if args.checkpoint.endswith('.py') or is_shipped(args.checkpoint):
        if args.prefix is not None:
            raise ValueError(
                f'--prefix {args.prefix}: {args.checkpoint} is a config and holds no weights; leave the option out'
            )
        opened = open_config(args.checkpoint, args.num_heads)
    else:
        opened = open_backbone(args.checkpoint, args.which, args.prefix, args.num_heads)
    opened.model.to(get_device())
    return opened


def open_config(filename: str, num_heads: int | None = None) -> OpenedBackbone:
    """The teacher's backbone of a pretraining config before the first step: that of a checkpoint written there.

    Weights are drawn with the seed of the config, as its run would draw them.

    Raises:
        FileNotFoundError, ValueError: There is no such config, its model is none of our methods or has no ``QueryViT``, or
            ``num_heads`` is given as well.
    """
    filename = str(find_config(filename))
    cfg = load_config(Namespace(config=filename, cfg_options={}, work_dir=None))
    check_method(filename, cfg.get('model') or {})
    if num_heads is not None:
        raise ValueError(f'--num-heads {num_heads}: {filename} says how many heads its backbone has; leave the option out')
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
    """The ``model`` of a config is one of our methods of pretraining, and its backbone a ``QueryViT``.

    Raises:
        ValueError: It is not; says which of the two and what to give instead.
    """
    backbone = model.get('backbone') or {}
    for part, cls, kind in ((model, SelfDistillation, 'method of pretraining'), (backbone, QueryViT, 'QueryViT')):
        name = str(part.get('type')).removeprefix('mmadclr.')
        found = None if '.' in name else MODELS.get(name)  # with a dot, of another library
        if not (isinstance(found, type) and issubclass(found, cls)):
            what = 'model' if part is model else 'backbone'
            raise ValueError(
                f'{filename}: its {what} ({part.get("type")}) is no {kind} of ours; give a config of pretraining, or a '
                'checkpoint'
            )


class EvaluationSets(NamedTuple):
    """Features of two image sets.

    ``draws``: for each run the images to learn from (places in ``train``; None for all). ``about``: what a result should say
    about the features.
    """

    train: FeatureSet
    val: FeatureSet
    draws: list[np.ndarray | None]
    about: dict


def load_features(args: Namespace, task: str, least: int = 1) -> EvaluationSets:
    """Features of training and validation images; of the former only those that are drawn, unless all go to a cache.

    Args:
        args: Of :mod:`mmadclr.cli.evaluation_arguments`.
        task: ``'knn'`` or ``'linear'``.
        least: So many images to learn from are needed.

    Raises:
        FileNotFoundError, ValueError: The sets cannot be read, hold different classes or too few images, or their cache
            holds other features.
        UnreadableImageError: Too many images cannot be read.
    """
    if args.runs > 1 and args.shots is None:
        raise ValueError(f'--runs {args.runs}: draws of --shots; without --shots there is nothing to draw')
    if args.refresh and not args.cache:
        raise ValueError('--refresh: there is nothing to extract anew without --cache DIR')
    opened = open_source(args)
    features = args.features or default_features(opened.model, task)
    model = FeatureExtractor(opened, features, args.precision).to(get_device())
    datasets = build_datasets(args, args.size or min(opened.img_size))
    draws = draw(args, datasets['train'])
    count = len(datasets['train']) if draws[0] is None else len(draws[0])
    if count < least:
        raise ValueError(f'{count} images to learn from, but --k asks for {least} neighbors: choose fewer')
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
    """For each run the images to learn from, all of them (None) without ``--shots``."""
    if args.shots is None:
        return [None]
    names = np.array(dataset.metainfo['classes'])[dataset.labels]  # so that an error says them
    return [few_shot(names, args.shots, seed) for seed in range(args.seed, args.seed + args.runs)]


def build_datasets(args: Namespace, size: int) -> dict[str, ImageDataset]:
    """The training and the validation images at ``size`` pixels, once it is certain that they have the same classes.

    On all processes, which have to list the same images.
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
    """Both sets have the same classes, and every class has training images.

    Raises:
        ValueError: Names a class for which that is not so.
    """
    for dataset in (train, val) if in_folders else ():
        for name in map(printable, subfolders(dataset.data_root)):
            if name not in dataset.metainfo['classes']:
                folder = printable(Path(dataset.data_root, name))
                raise ValueError(f'class folder {folder} holds no image: put some there or remove it')
    classes = [dataset.metainfo['classes'] for dataset in (train, val)]
    if classes[0] != classes[1]:
        alone = sorted(set(classes[0]) ^ set(classes[1]))[:4]
        raise ValueError(
            f'{train.data_root} and {val.data_root} hold different classes, {len(classes[0])} and {len(classes[1])} of them '
            f'(in one alone: {", ".join(alone) or "none, but their order differs"}): labels of one mean nothing in the other'
        )
    missing = np.flatnonzero(np.bincount(train.labels, minlength=len(classes[0])) == 0)
    if len(missing):
        raise ValueError(f'{train.data_root}: class {classes[0][missing[0]]} has no image to learn from')


def over_draws(sets: EvaluationSets, evaluate: Callable[[FeatureSet], dict]) -> dict:
    """Metrics of ``evaluate(training images)``; with several draws, mean and deviation of accuracies."""
    runs = [evaluate(sets.train if drawn is None else sets.train.select(drawn)) for drawn in sets.draws]
    return runs[0] if len(runs) == 1 else summarize(runs)


def summarize(runs: Sequence[Mapping[str, float]]) -> dict:
    """Mean and (sample) standard deviation of every accuracy over runs, and the runs themselves."""
    metrics: dict = {}
    for name in (name for name in runs[0] if 'top' in name):
        values = [run[name] for run in runs]
        metrics |= {name: statistics.fmean(values), f'{name}_std': statistics.stdev(values)}
    return {**metrics, 'runs': [dict(run) for run in runs]}


def finish(args: Namespace, metrics: Mapping) -> None:
    """Prints a result as JSON, without its tables and inputs, and writes all of it to ``--out``; by the main process."""
    if not dist.is_main_process():
        return
    metrics = rounded(metrics)
    print(json.dumps({name: value for name, value in metrics.items() if not isinstance(value, (list, dict))}, indent=1))
    if args.out:
        with atomic_path(args.out) as temporary:
            temporary.write_text(json.dumps(metrics, indent=1) + '\n')


def rounded(node):
    """Nested values with accuracies to two digits; learning rates, which may be small, stay as they are."""
    if isinstance(node, Mapping):
        return {key: value if 'lr' in key.split('_') else rounded(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [rounded(value) for value in node]
    return round(node, 2) if isinstance(node, float) else node
