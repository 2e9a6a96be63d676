"""Settings of a pretraining run that cannot work together, found before anything is built or read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log

from mmadclr.config.check import ConfigError
from mmadclr.datasets.image_dataset import ImageDataset, ShapesDataset
from mmadclr.models.backbones.query_vit import resolve_arch
from mmadclr.models.preprocessors import ViewPreprocessor
from mmadclr.precision import PRECISIONS
from mmadclr.registry import DATASETS, MODELS, SCOPE
from mmadclr.urls import is_url

# A batch smaller than this share of the one that a recipe was made for gets a warning.
SMALL_BATCH = 0.25
WITHOUT_QUERIES = ('DINO', 'IBOT', 'SelfPatch')  # methods that do not use query crops


class Finding(NamedTuple):
    """``text``: the keys, what is wrong, and the way out. ``fatal``: the run cannot do what the config says."""

    text: str
    fatal: bool = True


def check_sense(cfg: Mapping) -> None:
    """Looks for settings of a pretraining config that exclude each other, and for paths that do not exist.

    Configs of other scopes are left to their libraries. Reads the config and looks whether paths exist; nothing is built.

    Raises:
        ConfigError: Lists all that cannot work, with keys and ways out; what may be meant is logged as a warning.
    """
    if (cfg.get('default_scope') or SCOPE) != SCOPE:
        return
    findings = [finding for check in CHECKS for finding in check(cfg)]
    report([finding for finding in findings if not finding.fatal])
    fatal = [finding.text for finding in findings if finding.fatal]
    if fatal:
        raise ConfigError('\n  '.join(('settings that cannot work:', *fatal)))


def report(findings: list[Finding]) -> None:
    """Logs findings as warnings, a line each."""
    for finding in findings:
        print_log(finding.text, 'current', logging.WARNING)


def schedule_findings(cfg: Mapping) -> Iterator[Finding]:
    """Schedules against the length of the run."""
    epochs, (path, schedule) = _get(cfg, 'train_cfg.max_epochs'), _hook(cfg, 'DistillationScheduleHook')
    if not schedule or not isinstance(epochs, int) or epochs < 1:
        return
    length = f'train_cfg.max_epochs={epochs}'
    rise = schedule.get('warmup_epochs', 10)
    if rise > epochs:
        yield Finding(
            f'{path}.warmup_epochs={rise} > {length}: the learning rate would never reach its peak; lower the first'
        )
    frozen = schedule.get('freeze_last_layer_epochs', 1)
    if frozen >= epochs:
        text = f'{path}.freeze_last_layer_epochs={frozen} >= {length}: the last layer would never learn; lower the first'
        yield Finding(text, fatal=frozen > epochs)
    warmup = schedule.get('teacher_temp_warmup_epochs', 0)
    if warmup > epochs:
        reached = f'{path}.teacher_temp_warmup_epochs={warmup} > {length}'
        yield Finding(f'{reached}: the run ends before the teacher temperature reaches its end', fatal=False)
    decay, min_lr = tuple(schedule.get('weight_decay', ())), schedule.get('min_lr', 0)
    if min_lr < 0 or any(value < 0 for value in decay):
        yield Finding(f'{path}: min_lr={min_lr} and weight_decay={decay} must not be negative')
    if cfg.get('param_scheduler'):
        yield Finding(
            f'param_scheduler: {path} sets the learning rate of every step and would undo it; remove one of the two'
        )


def teacher_findings(cfg: Mapping) -> Iterator[Finding]:
    """Numbers with which the teacher makes no sense."""
    for name in ('loss_cls', 'loss_query', 'loss_patch'):
        loss = _get(cfg, f'model.{name}') or {}
        for key in ('student_temp', 'teacher_temp'):
            if loss.get(key, 1) <= 0:
                yield Finding(f'model.{name}.{key}={loss[key]}: a temperature must be above 0')
        if not 0 <= loss.get('center_momentum', 0) <= 1:
            yield Finding(
                f'model.{name}.center_momentum={loss["center_momentum"]}: must lie in [0, 1]; 1 never moves the center'
            )


def loop_findings(cfg: Mapping) -> Iterator[Finding]:
    """Whether there is a run, and when it validates."""
    epochs, interval = _get(cfg, 'train_cfg.max_epochs'), _get(cfg, 'train_cfg.val_interval')
    if isinstance(epochs, int) and epochs < 1:
        yield Finding(f'train_cfg.max_epochs={epochs}: there is nothing to train')
    if cfg.get('val_cfg') and isinstance(epochs, int) and isinstance(interval, int) and interval > epochs:
        text = f'train_cfg.val_interval={interval} > train_cfg.max_epochs={epochs}: validation at the end of the run only'
        yield Finding(text, fatal=False)


def choice_findings(cfg: Mapping) -> Iterator[Finding]:
    """Settings with a few allowed values that are read late."""
    precision, compiling = _get(cfg, 'optim_wrapper.precision') or 'auto', cfg.get('compile', 'auto')
    if precision not in ('auto', *PRECISIONS):
        yield Finding(f"optim_wrapper.precision={precision!r}: choose 'auto', {', '.join(map(repr, PRECISIONS))}")
    if compiling not in (True, False, None, 'auto') and not isinstance(compiling, Mapping):
        yield Finding(f"compile={compiling!r}: choose True, False, 'auto' or a dict of torch.compile's arguments")


def crop_findings(cfg: Mapping) -> Iterator[Finding]:
    """Sizes and scales of crops against the backbone's patches."""
    path, transform = 'train_dataloader.dataset.transform', _get(cfg, 'train_dataloader.dataset.transform') or {}
    patch, counts = _patch_size(cfg), {'local': transform.get('num_local', 10), 'query': transform.get('num_query', 0)}
    for kind in ('global', 'local', 'query'):
        size, scale = transform.get(f'{kind}_size', 0), transform.get(f'{kind}_scale', (1, 1))
        if counts.get(kind, 1) and (size < 0 or (patch and size % patch)):
            yield Finding(f'{path}.{kind}_size={size} is no multiple of the {patch} pixels of a patch (model.backbone.arch)')
        if not 0 < scale[0] <= scale[1] <= 1:
            yield Finding(f'{path}.{kind}_scale={tuple(scale)}: give shares of the image with 0 < lowest <= highest <= 1')
    for key in ('val_dataloader', 'test_dataloader'):
        size = _get(cfg, f'{key}.dataset.transform.size')
        if patch and isinstance(size, int) and size % patch:
            yield Finding(f'{key}.dataset.transform.size={size} is no multiple of the {patch} pixels of a patch')


def device_findings(cfg: Mapping) -> Iterator[Finding]:
    """Crops that are left to the device, against what cuts and decodes them there."""
    path, transform = 'train_dataloader.dataset.transform', _get(cfg, 'train_dataloader.dataset.transform') or {}
    for key in ('val_dataloader', 'test_dataloader', 'val_cfg.bank', 'val_cfg.dense_probe'):
        found = _get(cfg, f'{key}.transform') or _get(cfg, f'{key}.dataset.transform') or {}
        if found.get('backend') == 'device':
            yield Finding(f"{key}: a transform with backend='device' is for training; evaluation takes ResizeCenterCrop")
    if transform.get('backend') != 'device':
        return
    kind = _get(cfg, 'model.data_preprocessor.type')
    ours = kind is None or (isinstance(found := MODELS.get(str(kind)), type) and issubclass(found, ViewPreprocessor))
    if not ours:
        yield Finding(
            f"{path}.backend='device' sends whole images, and model.data_preprocessor={kind} does not cut crops: take a "
            "ViewPreprocessor (for methods of mmpretrain MMPretrainPreprocessor), or backend='fast'"
        )
    if transform.get('decode') == 'device' and find_spec('torchcodec') is None:
        yield Finding(
            f"{path}.decode='device' needs TorchCodec: pip install 'torchcodec>=0.16', or remove the key (workers decode)"
        )
    if not torch.cuda.is_available():
        text = f"{path}.backend='device' without a GPU: cutting crops takes several times as long as with 'fast'"
        yield Finding(text, fatal=False)


def mask_findings(cfg: Mapping) -> Iterator[Finding]:
    """Masks against the backbone's patches and the length of the run."""
    path, patch, epochs = 'train_dataloader.dataset.transform.mask', _patch_size(cfg), _get(cfg, 'train_cfg.max_epochs')
    masked, start = _get(cfg, f'{path}.patch_size'), _get(cfg, f'{path}.start_epoch') or 0
    if patch and masked and masked != patch:
        yield Finding(f'{path}.patch_size={masked}, but patches of model.backbone have {patch} pixels: set it to {patch}')
    if start and isinstance(epochs, int) and start >= epochs:
        yield Finding(
            f'{path}.start_epoch={start} >= train_cfg.max_epochs={epochs}: nothing is ever masked; lower the first'
        )


def neighbor_findings(cfg: Mapping) -> Iterator[Finding]:
    """Views of SelfPatch against the backbone's patches: the only patch of a view has no neighbors."""
    path, transform = 'train_dataloader.dataset.transform', _get(cfg, 'train_dataloader.dataset.transform') or {}
    patch, counts = _patch_size(cfg), {'global': 2, 'local': transform.get('num_local', 10)}
    if _method(cfg) != 'SelfPatch' or not patch:
        return
    for kind, count in counts.items():
        if count and transform.get(f'{kind}_size') == patch:
            yield Finding(
                f'{path}.{kind}_size={patch}: for SelfPatch, a grid of 1 x 1 patches has no neighbors: make the views at '
                f'least two patches wide, or the patches of {patch} pixels smaller (model.backbone.arch)'
            )


def view_findings(cfg: Mapping) -> Iterator[Finding]:
    """Views that are made but not used, or not those the backbone was made for."""
    transform, stored = _get(cfg, 'train_dataloader.dataset.transform') or {}, _get(cfg, 'model.backbone.img_size') or 224
    method, queries, size = _method(cfg), transform.get('num_query', 0), transform.get('global_size', 224)
    if queries and method in WITHOUT_QUERIES:
        text = f'train_dataloader.dataset.transform.num_query={queries}: {method} does not use query crops; set 0'
        yield Finding(text, fatal=False)
    if isinstance(stored, int) and transform and stored != size:
        text = (
            f'model.backbone.img_size={stored}, but global views have {size} pixels: positions are resized in every step; '
            'set both alike unless this is meant'
        )
        yield Finding(text, fatal=False)


def path_findings(cfg: Mapping) -> Iterator[Finding]:
    """Folders, lists and checkpoints that do not exist."""
    sets = {key: _get(cfg, f'{key}.dataset') for key in ('train_dataloader', 'val_dataloader')}
    if not _get(cfg, 'val_cfg'):
        del sets['val_dataloader']
    sets = {key: dataset for key, dataset in sets.items() if isinstance(dataset, Mapping)}
    drawn = {dataset.get('data_root') for dataset in sets.values() if _is_drawn(dataset)}
    places = {f'{key}.dataset': dataset for key, dataset in sets.items() if _is_read(dataset)}
    if 'val_dataloader.dataset' in places:
        places['val_cfg.bank'] = _get(cfg, 'val_cfg.bank') or {}
    for part in ('train', 'val'):
        places[f'val_cfg.dense_probe.{part}'] = _get(cfg, f'val_cfg.dense_probe.{part}') or {}
    for path, place in places.items():
        yield from _missing(f'{path}.data_root', place.get('data_root'), Path.is_dir, 'folder', drawn)
        yield from _missing(f'{path}.ann_file', place.get('ann_file'), Path.is_file, 'list of images', drawn)
    yield from _missing('load_from', _get(cfg, 'load_from'), Path.is_file, 'checkpoint', drawn)
    start = 'model.backbone.init_cfg.checkpoint'  # or a folder, as transformers and timm write them
    yield from _missing(start, _get(cfg, start), Path.exists, 'checkpoint', drawn)


def batch_findings(images: int, batch: int, processes: int, accumulated: int, cfg: Mapping) -> list[Finding]:
    """What the real numbers of a run make of a recipe; to be called when the loader is there.

    Args:
        images: Of the training set.
        batch: Images of one batch of one process.
        processes, accumulated: How many batches make an optimizer step.
        cfg: Config of the run.
    """
    findings = []
    batches, total = images // (batch * processes), batch * processes * accumulated
    if accumulated > 1 and batches % accumulated:
        findings.append(
            f'optim_wrapper.accumulative_counts={accumulated} does not divide the {batches} batches of an epoch: a step '
            'that is not complete at the end of an epoch goes on in the next one'
        )
    base, prototypes = _get(cfg, 'auto_scale_lr.base_batch_size'), _get(cfg, 'model.head.out_dim') or 65536
    if base and total < SMALL_BATCH * base:
        findings.append(
            f'{total} images a step are few for a recipe made for {base} (auto_scale_lr.base_batch_size), and the center of '
            'the teacher gets noisy: accumulate batches (optim_wrapper.accumulative_counts)'
        )
    if prototypes > images:
        findings.append(
            f'model.head.out_dim={prototypes} prototypes are more than the {images} images: most would never be used, and '
            'the loss may stay at ln K; lower it, as configs/adclr/vits16_small.py does'
        )
    return [Finding(text, fatal=False) for text in findings]


CHECKS: tuple[Callable[[Mapping], Iterator[Finding]], ...] = (
    *(schedule_findings, teacher_findings, loop_findings, choice_findings),
    *(crop_findings, device_findings, mask_findings, neighbor_findings, view_findings, path_findings),
)
NO_HOOK: tuple[str, Mapping] = ('', {})


def _get(cfg: Any, path: str) -> Any:
    """Value at a dotted path; None where there is none."""
    for key in path.split('.'):
        cfg = cfg.get(key) if hasattr(cfg, 'get') else None  # Config is no Mapping
    return cfg


def _method(cfg: Mapping) -> str:
    """Name of the model; with its scope where it is of another package."""
    return str(_get(cfg, 'model.type')).removeprefix('mmadclr.')


def _hook(cfg: Mapping, name: str) -> tuple[str, Mapping]:
    """Path and settings of the hook whose type ends in ``name``; ``NO_HOOK`` where there is none."""
    hooks = {f'default_hooks.{key}': hook for key, hook in (cfg.get('default_hooks') or {}).items()}
    hooks |= {f'custom_hooks.{i}': hook for i, hook in enumerate(cfg.get('custom_hooks') or [])}
    found = (item for item in hooks.items() if isinstance(item[1], Mapping) and str(item[1].get('type')).endswith(name))
    return next(found, NO_HOOK)


def _patch_size(cfg: Mapping) -> int | None:
    """Pixels along a side of the backbone's patches; None where the config does not tell."""
    arch = _get(cfg, 'model.backbone.arch')
    if '.' in str(_get(cfg, 'model.backbone.type')).removeprefix('mmadclr.'):  # of another package, with its own arguments
        return _get(cfg, 'model.backbone.patch_size')
    if isinstance(arch, Mapping):
        return arch.get('patch_size', 16)
    return resolve_arch(arch)['patch_size'] if isinstance(arch, str) else None


def _is_drawn(dataset: Mapping) -> bool:
    """Whether the set draws its images itself when they are not there."""
    return _is_a(dataset, ShapesDataset)


def _is_read(dataset: Mapping) -> bool:
    return _is_a(dataset, ImageDataset) and not _is_drawn(dataset)


def _is_a(dataset: Mapping, cls: type) -> bool:
    found = DATASETS.get(str(dataset.get('type')))
    return isinstance(found, type) and issubclass(found, cls)


def _missing(key: str, value: Any, exists: Callable[[Path], bool], kind: str, drawn: set) -> Iterator[Finding]:
    if kind == 'folder' and is_url(value):
        return  # shards in a store, which is asked when they are listed
    if isinstance(value, (str, Path)) and str(value) and value not in drawn and not exists(Path(value)):
        state = f'is no {kind}' if Path(value).exists() else 'does not exist'
        yield Finding(f'{key}: {kind} {value} {state} (looked from {Path.cwd()}); put it there or change the key')
