"""The jobs of a comparison: pretraining and its evaluations, for every network and seed."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from mmadclr.compare import suite
from mmadclr.compare.baselines import PIXELS, RANDOM, knn_top1
from mmadclr.compare.dense_tasks import DENSE_TASKS, DenseTask
from mmadclr.compare.jobs import Job, cost, last_logged
from mmadclr.compare.methods import Method
from mmadclr.compare.table import Metrics
from mmadclr.config.loading import load_config
from mmadclr.evaluation.feature_loop import evaluator_configs
from mmadclr.models.backbones.query_vit import resolve_arch

METRICS = 'metrics.json'
# Files of the current folder stand for no module of others.
PROGRAM = [sys.executable, '-P', '-m', 'mmadclr']
# The command of each measurement, and what results call it.
MEASUREMENTS = {'knn': ('knn', 'knn.py'), 'linear': ('linear', 'linear.py'), 'dense': ('probe', 'dense_probe.py')}
DECIDES_UNTRAINED = ('model', 'randomness', 'val_dataloader', 'val_cfg', 'val_evaluator')


class Settings(NamedTuple):
    """``dense``: resolved config of every requested dense task. ``suite``: arguments of the dense suite."""

    out: Path
    dense: Mapping[str, Config]
    suite: tuple[str, ...] = ()


def load_settings(out: str, tasks: Mapping[str, tuple[str | None, Mapping]], suite: Sequence[str] = ()) -> Settings:
    """``tasks``: config file (None: the demo's) and overrides of every requested dense task; ``suite``: see there."""
    dense = {}
    for part, (file, options) in tasks.items():
        dense[part] = load_config(
            Namespace(config=file or DENSE_TASKS[part].config, cfg_options=dict(options), work_dir=None)
        )
    return Settings(Path(out), dense, tuple(suite))


def plan(method: Method, seed: int, settings: Settings, parts: Sequence[str]) -> dict[str, Job]:
    """Jobs of one method and seed by part, always including ``pretraining``.

    Raises:
        ValueError: The config lacks settings for one of the parts, or a dense task is for another network.
    """
    folder = settings.out / method.name.replace(' ', '_') / f'seed{seed}'
    first = pretraining(method, seed, folder / 'pretraining')
    name = f'epoch_{method.cfg.train_cfg.max_epochs}.pth' if method.trained else RANDOM
    checkpoint = method.run or first.folder / name
    jobs = {'pretraining': first}
    for part in parts:
        if part in DENSE_TASKS:
            check_network(part, settings.dense[part], method)
            cfg = seeded(settings.dense[part], seed)
            cfg.merge_from_dict({'model.backbone.class_token': method.class_token})
            jobs[part] = finetuning(DENSE_TASKS[part], cfg, checkpoint, folder / part, first)
        elif part == 'suite':
            jobs[part] = suite.suite_job(checkpoint, settings.suite, folder / part, PROGRAM, first)
        elif part != 'pretraining':
            jobs[part] = measurement(part, method.cfg, seed, checkpoint, folder / part, first)
    return jobs


def check_network(part: str, cfg: Config, method: Method) -> None:
    """Checks that a dense task uses the network that a method trains; numbers of heads may differ.

    Raises:
        ValueError: It does not.
    """
    arch = cfg.model.backbone.get('arch')
    task, trained = (resolve_arch(each) for each in (arch, method.cfg.model.backbone.arch))
    for key in ('embed_dim', 'depth', 'patch_size'):
        if task[key] != trained[key]:
            raise ValueError(
                f'part {part}: {method.name} trains a network with {key}={trained[key]}, but the config of the task has '
                f'{task[key]}: choose another with --{part}-config, or remove the part from --parts'
            )


def seeded(cfg: Config, seed: int) -> Config:
    copy = Config(cfg.to_dict())
    copy.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    return copy


def pretraining(method: Method, seed: int, folder: Path) -> Job:
    if method.run is not None:
        return finished(method.run, method.parameters, folder)
    cfg = seeded(method.cfg, seed)
    file = str(folder / 'config.py')
    trained, untrained = [*PROGRAM, 'train', file, '--resume'], [sys.executable, '-P', '-m', 'mmadclr.cli.baselines', file]
    return Job(
        folder,
        [*(trained if method.trained else untrained), '--work-dir', str(folder)],
        {'trained': method.trained, 'cfg': identity_of(cfg) if method.trained else cut_to(cfg, DECIDES_UNTRAINED)},
        partial(read_pretraining, method.parameters) if method.trained else read_baselines,
        config=cfg,
    )


def finished(run: Path, parameters: int, folder: Path) -> Job:
    """A job for an existing run, which is not modified."""
    stat = run.stat()
    identity = {'checkpoint': str(run.resolve()), 'bytes': stat.st_size, 'written': stat.st_mtime_ns}
    return Job(folder, None, identity, lambda *_: read_pretraining(parameters, run.parent, memory=0.0))


def read_pretraining(parameters: int, folder: Path, memory: float) -> Metrics:
    return {**cost(folder, memory), 'parameters': parameters}


def read_baselines(folder: Path, memory: float) -> Metrics:
    """Metrics of raw pixels, under names different from those of the row itself."""
    return {f'pixels_{name}': value for name, value in json.loads((folder / PIXELS).read_text()).items()}


def measurement(part: str, cfg: Config, seed: int, checkpoint: Path, folder: Path, first: Job) -> Job:
    """k-NN, linear classifiers or patch probes, on the data of the config's validation."""
    if cfg.get('val_cfg') is None:
        raise ValueError(
            f'part {part}: the config of {first.folder.parent.parent.name} has no val_cfg, hence no labeled images'
        )
    arguments = {'knn': knn_arguments, 'linear': linear_arguments, 'dense': probe_arguments}[part](cfg, seed)
    name, tool = MEASUREMENTS[part]
    command = [*PROGRAM, name, str(checkpoint), *arguments, '--out', str(folder / METRICS)]
    command += ['--workers', str(cfg.val_dataloader.get('num_workers', 0))]
    return Job(folder, command, {'tool': tool, 'arguments': arguments}, partial(read_measurement, part), needs=first)


def knn_arguments(cfg: Config, seed: int) -> list[str]:
    """The k-NN of the config's validation, with the same settings."""
    knn: Mapping = evaluator_of(cfg, 'WeightedKNN') or {}
    settings = {name: knn.get(name, default) for name, default in (('k', 20), ('temperature', 0.07))}
    lists = {name: value if isinstance(value, (list, tuple)) else [value] for name, value in settings.items()}
    chosen = [text for name, values in lists.items() for text in (f'--{name}', *map(str, values))]
    return [*image_arguments(cfg), *chosen]


def evaluator_of(cfg: Config, kind: str) -> Mapping | None:
    """The config of the first evaluator of a type in the validation of a config, if there is one."""
    configs = evaluator_configs(cfg.val_evaluator).values()
    return next((each for each in configs if str(each['type']).rpartition('.')[2] == kind), None)


def linear_arguments(cfg: Config, seed: int) -> list[str]:
    return [*image_arguments(cfg), '--seed', str(seed)]


def image_arguments(cfg: Config) -> list[str]:
    """The labeled images of the config's validation, at its size.

    Raises:
        ValueError: They come from a custom source, which the tools do not read.
    """
    val = cfg.val_dataloader.dataset
    arguments = []
    for name, dataset in (('train', {**val, **cfg.val_cfg.bank}), ('val', val)):
        if dataset.get('source') is not None:
            raise ValueError(
                'parts knn and linear read folders and shards, and val_dataloader.dataset or val_cfg.bank has a source: '
                'leave these parts out of --parts'
            )
        arguments += [f'--{name}', str(Path(dataset['data_root'], dataset.get('split', '')))]
        if dataset.get('ann_file'):
            arguments += [f'--{name}-list', dataset['ann_file']]
    if val.get('shards'):
        arguments += ['--shards', val.shards]
    sizes = ['--size', str(val.transform.size), '--resize', str(val.transform.resize)]
    sizes += ['--read', val.transform.get('backend', 'fast')]
    return [*arguments, *sizes, '--dtype', 'float32', '--batch-size', str(cfg.val_dataloader.batch_size)]


def probe_arguments(cfg: Config, seed: int) -> list[str]:
    """The patch probes of the config's validation; the tool's image limit applies to training and validation alike.

    Raises:
        ValueError: The validation has none.
    """
    probe = evaluator_of(cfg, 'DenseProbe')
    if probe is None:
        raise ValueError(
            'part dense: val_evaluator has no DenseProbe with the location of masks; remove the part from --parts'
        )
    train = probe['train']
    arguments = ['--data-root', train['data_root'], '--num-classes', str(train['num_classes'])]
    for name, part in (('train', train), ('val', {**train, **probe.get('val', {})})):
        arguments += [f'--{name}', part['img_dir'], part['mask_dir']]
    given = {**{key: train.get(key) for key in ('size', 'max_images', 'ignore_index')}, 'bank_size': probe.get('bank_size')}
    given |= {'k': probe.get('k'), 'read': train.get('backend', 'fast')}
    for key, value in given.items():
        arguments += [] if value is None else [f'--{key.replace("_", "-")}', str(value)]
    return arguments + (['--reduce-zero-label'] if train.get('reduce_zero_label') else [])


def read_measurement(part: str, folder: Path, memory: float) -> Metrics:
    metrics = json.loads((folder / METRICS).read_text())
    if part == 'knn':
        return {'knn': knn_top1(metrics), 'knn_features': metrics['features']}
    if part == 'linear':
        return {'linear': metrics['linear_top1'], 'linear_features': metrics['features']}
    return {'patch_knn_miou': next(iter(metrics.values())), 'probe_miou': metrics['patch_linear_miou']}


def finetuning(task: DenseTask, cfg: Config, checkpoint: Path, folder: Path, first: Job) -> Job:
    """A dense task from the checkpoint of a pretraining."""
    identity = identity_of(cfg)
    cfg.merge_from_dict({'model.backbone.init_cfg.checkpoint': str(checkpoint)})
    train = [*PROGRAM, 'train', str(folder / 'config.py'), '--resume']
    return Job(
        folder,
        [*train, '--work-dir', str(folder)],
        {'metrics': task.metrics, 'cfg': identity},
        lambda folder, memory: task.read(partial(last_logged, folder)),
        config=cfg,
        needs=first,
    )


def identity_of(cfg: Config) -> dict:
    """The keys of a config that affect a result: all except the output folder."""
    return cut_to(cfg, set(cfg.keys()) - {'work_dir'})


def cut_to(cfg: Config, keys: Collection[str]) -> dict:
    return {key: value for key, value in cfg.to_dict().items() if key in keys}
