"""Runs an adaptation: plan, training, and the verdict."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

import torch
from mmengine.config import Config

from mmadclr.adaptation.measuring import Measurer, leading_measure
from mmadclr.adaptation.plan import Plan, choose_batch, choose_sizes, describe, make_plan
from mmadclr.adaptation.settings import (
    LIST,
    base_options,
    build_config,
    evaluation_set,
    plan_options,
    with_measures,
    write_image_list,
)
from mmadclr.adaptation.timing import time_steps, without_messages
from mmadclr.checkpoint.run_files import checkpoints, newest_good_checkpoint
from mmadclr.datasets import ImageDataset
from mmadclr.engine import Runner
from mmadclr.evaluation.adaptation import Measured, as_json, as_markdown, as_text
from mmadclr.files import atomic_path, writing_below
from mmadclr.hub.opening import open_backbone
from mmadclr.hub.starting import Start, read_start
from mmadclr.registry import DATASETS

CONFIG, DONE, RESULT = 'adapt.py', 'training_is_done', 'adaptation'
ASKED = ('weights', 'data', 'method', 'seed', 'size', 'labels', 'low_rank')  # arguments that a continued run must share


def adapt(args: Namespace) -> None:
    """Adapts weights to images, or continues a run in the work dir; prints the plan, and at the end a table and verdict."""
    started, folder = time.monotonic(), Path(args.work_dir)
    if (folder / CONFIG).is_file():
        cfg, original = continued(folder, args), None
    else:
        cfg, plan = planned(args, started)
        if args.dry_run:
            return
        cfg, original = prepared(cfg, plan, args)
    train(cfg, folder)
    finish(cfg, folder, original)


def planned(args: Namespace, started: float) -> tuple[Config, Plan]:
    """Config and plan of a new run, which it prints; times a few steps."""
    start = read_start(args.weights)
    sizes = choose_sizes(start.settings['arch']['patch_size'], start.settings['img_size'], args.size)
    images = count_images(args.data, sizes.large, args.labels)
    batch = choose_batch(images, torch.cuda.is_available())
    base = base_options(sizes, batch, start, args.method, args.workers, args.low_rank)
    with without_messages():  # of the weights, which are told above
        trial = build_config(args, base, args.seed)
    step_s = time_steps(trial)
    left_s = args.budget - (time.monotonic() - started)
    plan = make_plan(sizes, images, batch, start.settings['arch'], step_s, left_s)
    show([('weights', describe_weights(args, start)), *describe(plan, args.method)])
    with without_messages():
        cfg = build_config(args, base | plan_options(plan, start.settings['arch']['embed_dim']), args.seed)
    return cfg, plan


def count_images(data: str, side: int, labels: bool) -> int:
    """Number of images in a folder.

    Raises:
        FileNotFoundError, ValueError: There is no such folder, or it has no images or, with ``labels``, no class folders.
    """
    return len(DATASETS.build(evaluation_set(data, side, labels)))


def describe_weights(args: Namespace, start: Start) -> str:
    arch = start.settings['arch']
    text = f'{args.weights}: {arch["depth"]} blocks of {arch["embed_dim"]} channels, {start.settings["img_size"][0]} pixels'
    untrained = args.method == 'ibot' and not start.mask_token_trained
    return f'{text}; its mask token was never trained, so no patches are masked' if untrained else text


def show(lines: Iterable[tuple[str, str]]) -> None:
    for name, text in lines:
        print(f'{name:9}{text}', flush=True)


def prepared(cfg: Config, plan: Plan, args: Namespace) -> tuple[Config, Measured]:
    """Measures the original, and writes the config of the run; also the measures."""
    folder = Path(args.work_dir)
    data = cfg.train_dataloader.dataset.data_root
    with writing_below(args.work_dir):
        folder.mkdir(parents=True, exist_ok=True)
    if plan.images < plan.available:
        dataset: ImageDataset = DATASETS.build(evaluation_set(data, plan.sizes.large))
        write_image_list(dataset, plan.images, args.seed, folder / LIST)
        cfg.train_dataloader.dataset.ann_file = str((folder / LIST).absolute())
    with_measures(cfg, plan, args, 'retrieval')
    original = measured_original(cfg)
    measure = leading_measure(original)
    for hook in cfg.custom_hooks:
        hook.measure = measure
    cfg.adaptation = {key: getattr(args, key) for key in ASKED}
    with atomic_path(folder / CONFIG) as temporary:
        cfg.dump(temporary)
    return cfg, original


def measured_original(cfg: Config) -> Measured:
    settings = cfg.val_evaluator.adaptation
    with without_messages():
        return Measurer(settings).measure(open_backbone(settings.original), 'the original model')


def continued(folder: Path, args: Namespace) -> Config:
    """The config of the run in a work dir.

    Raises:
        ValueError: It was started with other arguments.
    """
    cfg = Config.fromfile(folder / CONFIG)
    other = [key for key in ASKED if cfg.adaptation[key] != getattr(args, key)]
    if other:
        key = other[0]
        raise ValueError(
            f'{folder} has a run with --{key.replace("_", "-")} {cfg.adaptation[key]}, not {getattr(args, key)}: choose '
            'another --work-dir, or the same arguments to continue it'
        )
    cfg.work_dir, cfg.resume = str(folder), bool(checkpoints(folder))
    print(f'continuing the run in {folder}', flush=True)
    return cfg


def train(cfg: Config, folder: Path) -> None:
    """Trains unless it is done."""
    if (folder / DONE).is_file():
        return
    Runner.from_cfg(cfg).train()
    (folder / DONE).write_text('')


def finish(cfg: Config, folder: Path, original: Measured | None) -> None:
    """Prints table and verdict, and writes them to ``adaptation.json`` and ``adaptation.md``."""
    adapted, settings = adapted_weights(cfg, folder), cfg.val_evaluator.adaptation
    with without_messages():
        comparison = Measurer(settings).compare(original, settings.original, adapted)
    for suffix, text in (('json', as_json(comparison)), ('md', as_markdown(comparison))):
        with atomic_path(folder / f'{RESULT}.{suffix}') as temporary:
            temporary.write_text(text)
    print(as_text(comparison))
    show([('adapted', str(adapted)), ('table', str(folder / f'{RESULT}.md'))])
    print(f'next     mmadclr export {adapted} {folder / "timm"} --format timm')


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
