"""Runs an adaptation: plan, training, and the verdict."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine import dist
from mmengine.config import Config

from mmadclr.adaptation.changes import LENGTH, as_built, as_texts
from mmadclr.adaptation.inputs import count_masks, describe_weights, read_inputs
from mmadclr.adaptation.measuring import Measurer, leading_measure
from mmadclr.adaptation.plan import Plan, describe, make_plan
from mmadclr.adaptation.processes import on_main, said_once
from mmadclr.adaptation.settings import (
    LIST,
    build_config,
    evaluation_set,
    mask_settings,
    plan_options,
    with_measures,
    write_image_list,
)
from mmadclr.adaptation.timing import time_steps
from mmadclr.checkpoint.reading import read_checkpoint
from mmadclr.checkpoint.run_files import checkpoints, newest_good_checkpoint
from mmadclr.config.sense import check_sense
from mmadclr.console.libraries import without_messages
from mmadclr.datasets import ImageDataset
from mmadclr.engine import Runner
from mmadclr.evaluation.adaptation import Comparison, Measured, as_json, as_markdown, as_text, compare
from mmadclr.files import atomic_path, writing_below
from mmadclr.registry import DATASETS

CONFIG, DONE, RESULT = 'adapt.py', 'training_is_done', 'adaptation'
READING = ('which', 'prefix', 'num_heads', 'fact')
# Arguments that a continued run must share, and what those that older runs do not record were.
ASKED = ('weights', 'data', 'method', 'seed', 'size', 'labels', 'low_rank', 'masks', 'cfg_options', *READING)
UNRECORDED: dict[str, Any] = {'masks': None, 'cfg_options': [], 'which': 'teacher'}
UNRECORDED |= {'prefix': None, 'num_heads': None, 'fact': []}


def adapt(args: Namespace) -> None:
    """Adapts weights to images, or continues a run in the work dir; prints the plan, and at the end a table and verdict.

    Of several processes, each calls it; the main one prints and writes.
    """
    started, folder = time.monotonic(), Path(args.work_dir)
    original: Measured | None = None
    if on_main((folder / CONFIG).is_file):
        cfg = said_once(lambda: continued(folder, args))
    else:
        cfg, plan = said_once(lambda: planned(args, started))
        if not args.dry_run:
            original = said_once(lambda: prepared(cfg, plan, args))
    if args.dry_run:
        return
    train(cfg, folder)
    said_once(lambda: finish(cfg, folder, original))


def check(args: Namespace) -> None:
    """Checks the input before several processes are started, which would repeat its errors.

    Raises:
        FileNotFoundError, ValueError: See :func:`read_inputs`, :func:`count_masks` and :func:`check_continued`.
    """
    folder, processes = Path(args.work_dir), args.gpus * int(os.environ.get('NNODES', '1'))
    if (folder / CONFIG).is_file():
        check_continued(Config.fromfile(folder / CONFIG), folder, args, processes)
        return
    with without_messages():
        count_masks(args.masks, read_inputs(args, processes).sizes.large)


def planned(args: Namespace, started: float) -> tuple[Config, Plan]:
    """Config and plan of a new run, which it prints; times a few steps."""
    processes = dist.get_world_size()
    found = on_main(lambda: read_inputs(args, processes))
    masks = count_masks(args.masks, found.sizes.large)
    with without_messages():  # of the weights, which are told above
        trial = build_config(args, found.options, args.seed)
    step_s, arch = time_steps(trial), found.start.settings['arch']
    left_s = on_main(lambda: args.budget - (time.monotonic() - started))
    length = args.cfg_options.get(LENGTH)
    plan = make_plan(found.sizes, found.images, found.batch, arch, step_s, left_s, masks, processes, length)
    with without_messages():
        cfg = build_config(args, found.options | plan_options(plan, arch['embed_dim']), args.seed)
        on_main(lambda: check_sense(cfg))
    plan = as_built(plan, cfg)
    show([('weights', describe_weights(args, found.start, cfg)), *describe(plan, args.method)])
    if args.cfg_options:
        show([('changed', ', '.join(as_texts(args.cfg_options)))])
    return cfg, plan


def show(lines: Iterable[tuple[str, str]]) -> None:
    """Prints names and texts, on the main process."""
    if dist.is_main_process():
        for name, text in lines:
            print(f'{name:9}{text}', flush=True)


def prepared(cfg: Config, plan: Plan, args: Namespace) -> Measured:
    """Completes and writes the config of the run, and measures the original, which it returns."""
    folder = Path(args.work_dir)
    with writing_below(args.work_dir):
        on_main(lambda: folder.mkdir(parents=True, exist_ok=True))
    if plan.images < plan.available:
        on_main(lambda: write_list(cfg, plan, args.seed, folder / LIST))
        cfg.train_dataloader.dataset.ann_file = str((folder / LIST).absolute())
    with_measures(cfg, plan, args, 'retrieval')
    cfg.adaptation = asked(args) | {'batch': plan.batch, 'probe': None}
    if plan.masked is not None:
        each = cfg.train_dataloader.batch_size
        cfg.adaptation.probe = mask_settings(args.masks, plan.sizes.large, each, plan.masked)
    with without_messages():
        measurer = measurer_of(cfg)
        original = measurer.measure(measurer.original(), 'the original model')
    measure = on_main(lambda: leading_measure(original))
    for hook in cfg.custom_hooks:
        hook.measure = measure
    on_main(lambda: write_config(cfg, folder / CONFIG))
    return original


def write_list(cfg: Config, plan: Plan, seed: int, file: Path) -> None:
    """Writes the list of the images of the run."""
    dataset: ImageDataset = DATASETS.build(evaluation_set(cfg.train_dataloader.dataset.data_root, plan.sizes.large))
    write_image_list(dataset, plan.images, seed, file)


def write_config(cfg: Config, file: Path) -> None:
    with atomic_path(file) as temporary:
        cfg.dump(temporary)


def asked(args: Namespace) -> dict[str, Any]:
    """The arguments that are recorded."""
    return {key: getattr(args, key) for key in ASKED} | {
        'cfg_options': as_texts(args.cfg_options),
        'fact': as_texts(dict(args.fact)),
    }


def measurer_of(cfg: Config) -> Measurer:
    """What measures before and after the run."""
    return Measurer(cfg.val_evaluator.adaptation, cfg.adaptation.get('probe'))


def continued(folder: Path, args: Namespace) -> Config:
    """The config of the run in a work dir.

    Raises:
        ValueError: See :func:`check_continued`.
    """
    cfg = Config.fromfile(folder / CONFIG)
    processes = dist.get_world_size()
    cfg.train_dataloader.batch_size = on_main(lambda: check_continued(cfg, folder, args, processes)) // processes
    cfg.work_dir, cfg.resume, cfg.launcher = str(folder), on_main(lambda: bool(checkpoints(folder))), args.launcher
    if dist.is_main_process():
        print(f'continuing the run in {folder}', flush=True)
    return cfg


def check_continued(cfg: Config, folder: Path, args: Namespace, processes: int) -> int:
    """Checks that a run can continue; returns the images of a step, over all processes, which stay the same.

    Raises:
        ValueError: It was started with other arguments, or its steps cannot be shared by so many processes.
    """
    now, before = asked(args), UNRECORDED | dict(cfg.adaptation)
    other = [key for key in ASKED if before[key] != now[key]]
    if other:
        was, is_now = (said(each[other[0]]) for each in (before, now))
        raise ValueError(
            f'{folder} has a run with --{other[0].replace("_", "-")} {was}, not {is_now}: choose another --work-dir, or the '
            'same arguments to continue it'
        )
    batch = cfg.adaptation.get('batch', cfg.train_dataloader.batch_size)
    if batch % processes:
        raise ValueError(
            f'{folder} has a run with steps of {batch} images, which must be a multiple of the number of processes '
            f'({processes}) to continue it'
        )
    return batch


def said(value: Any) -> str:
    """The value of an argument in messages."""
    return (' '.join(value) or 'None') if isinstance(value, list) else str(value)


def train(cfg: Config, folder: Path) -> None:
    """Trains unless it is done."""
    if on_main((folder / DONE).is_file):
        return
    said_once(lambda: Runner.from_cfg(cfg).train())
    on_main(lambda: (folder / DONE).write_text(''))


def finish(cfg: Config, folder: Path, original: Measured | None) -> None:
    """Measures what is not yet measured; the main process tells and writes the result."""
    adapted = on_main(lambda: adapted_weights(cfg, folder))
    with without_messages():
        measured = measurer_of(cfg).measure_all(original, adapted)
    on_main(lambda: tell(compare(*measured), folder, adapted, when_written(cfg, adapted)))


def when_written(cfg: Config, checkpoint: Path) -> str:
    """At which point of a run a checkpoint was written, in words."""
    meta = read_checkpoint(checkpoint, mapped=True)['meta']
    frozen = (cfg.default_hooks.get('schedule') or {}).get('freeze_backbone_epochs', 0)
    text = f'after epoch {meta["epoch"]} of {cfg.train_cfg.max_epochs}'
    return f'{text}, while the backbone was frozen: it is the original' if meta['epoch'] <= frozen else text


def tell(comparison: Comparison, folder: Path, adapted: Path, when: str) -> None:
    """Prints table and verdict, and writes them to ``adaptation.json`` and ``adaptation.md``."""
    for suffix, text in (('json', as_json(comparison)), ('md', as_markdown(comparison))):
        with atomic_path(folder / f'{RESULT}.{suffix}') as temporary:
            temporary.write_text(text)
    print(as_text(comparison))
    show([('adapted', f'{adapted} ({when})'), ('table', str(folder / f'{RESULT}.md'))])
    print(f'next     mmadclr export {adapted} {folder / "timm"} --format timm', flush=True)


def adapted_weights(cfg: Config, folder: Path) -> Path:
    """The best checkpoint of the run, or its last.

    Raises:
        FileNotFoundError: There is none.
    """
    best = folder / f'best_{cfg.custom_hooks[0].measure}.pth'
    found = best if best.is_file() else newest_good_checkpoint(folder, print)
    if found is None:
        raise FileNotFoundError(f'{folder} has no checkpoint: delete {folder / DONE} to train again')
    return found
