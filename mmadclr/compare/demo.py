"""The demo: ADCLR on generated images, evaluation of features before and after pretraining, and pictures."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from functools import partial
from pathlib import Path

import mmengine
import timm
import torch
import torchvision
from mmengine.runner import find_latest_checkpoint
from PIL import Image

import mmadclr
from mmadclr.compare.baselines import headline, raw_pixels
from mmadclr.compare.dense_tasks import DENSE_TASKS
from mmadclr.config.loading import load_config
from mmadclr.datasets import collate_samples
from mmadclr.datasets.image_dataset import load_rgb
from mmadclr.datasets.transforms import crop_and_resize
from mmadclr.engine import Runner
from mmadclr.files import writing_below
from mmadclr.visualization import draw_attention, draw_crops, draw_curves

NUM_SHOWN = 6
PICTURES = ('crops.png', 'curves.png', 'attention.png')


def run_demo(args: argparse.Namespace) -> dict:
    """Runs ``args.parts`` and returns the summary, which is written to ``summary.json`` in the work dir after each part.

    Args:
        args: The arguments of ``mmadclr demo``; ``work_dir`` must be set.
    """
    file = Path(args.work_dir, 'summary.json')
    # A dense part that runs alone extends the summary; a new pretraining starts a new one.
    summary = json.loads(file.read_text()) if file.is_file() and 'pretraining' not in args.parts else {}
    for part in args.parts:
        start = time.time()
        summary |= pretrain(args) if part == 'pretraining' else finetune(args, part)
        summary[f'seconds_{part}'] = round(time.time() - start, 1)
        summary['versions'] = versions()
        file.write_text(json.dumps(summary, indent=1) + '\n')
    return summary


def pretrain(args: argparse.Namespace) -> dict[str, float]:
    """Evaluates, trains, evaluates again, and writes pictures to the work dir."""
    print('PRETRAINING, after k-NN and probes of raw pixels and of the untrained network', flush=True)
    cfg = load_config(args)
    cfg.randomness = dict(seed=args.seed)
    with writing_below(cfg.work_dir):
        runner = Runner.from_cfg(cfg)
    evaluation = runner.build_val_loop(runner.val_loop)
    summary = named(headline(evaluation.evaluate(raw_pixels(runner))), 'pixels')
    summary |= named(headline(evaluation.evaluate(runner.model)), 'random')
    runner.train()
    summary |= named(headline(evaluation.evaluate(runner.model)), 'teacher')
    draw_pictures(runner, evaluation, summary)
    return summary


def finetune(args: argparse.Namespace, part: str) -> dict[str, float]:
    """Trains a dense task from the pretrained teacher and from random initialization, with the same settings."""
    task = DENSE_TASKS[part]
    checkpoints = {'pretrained': latest_checkpoint(args.work_dir), 'random': None}
    summary: dict[str, float] = {}
    for name, checkpoint in checkpoints.items():
        print(f'\n{part.upper()}, {name}', flush=True)
        options = {**getattr(args, f'{part}_options'), 'pretrained': checkpoint}
        folder = str(Path(args.work_dir, f'{part}_{name}'))
        cfg = load_config(argparse.Namespace(config=task.config, cfg_options=options, work_dir=folder, verbose=args.verbose))
        cfg.randomness = dict(seed=args.seed)
        cfg.experiment_name = f'{part}_{name}_{time.time_ns()}'  # loggers and scopes with this name are global
        with writing_below(cfg.work_dir):
            runner = Runner.from_cfg(cfg)
        runner.train()
        summary |= named(task.read(partial(last_of, runner)), name)
    return summary


def last_of(runner: Runner, metric: str) -> float:
    """The last value of a metric of the validation."""
    return runner.message_hub.get_scalar(f'val/{metric}').current()


def latest_checkpoint(work_dir: str) -> str:
    checkpoint = find_latest_checkpoint(work_dir)
    if checkpoint is None:
        sys.exit(f'error: {work_dir} contains no pretrained checkpoint: run the part pretraining first')
    return checkpoint


def named(metrics: dict[str, float], name: str) -> dict[str, float]:
    """Metrics under the keys of the summary."""
    return {f'{key}_{name}': value for key, value in metrics.items()}


def draw_pictures(runner: Runner, evaluation, summary: dict) -> None:
    """Draws crops of a batch, curves of the run, and attention of the teacher on validation images."""
    model = runner.model.eval()
    crops, curves, attention = (Path(runner.work_dir, name) for name in PICTURES)
    train = runner.train_dataloader.dataset
    preprocessor = model.data_preprocessor
    shown = spread(len(train))
    data = collate_samples([train[i] for i in shown])
    views = preprocessor(data, True)['views']
    images = [load_rgb(train.path(i)) for i in shown]
    mean, std = preprocessor.mean, preprocessor.std
    draw_crops(images, data, views, mean, std, crops)
    baselines = {'raw pixels': summary['knn_pixels'], 'random network': summary['knn_random']}
    draw_curves(Path(runner.log_dir, 'vis_data', 'scalars.json'), curves, baselines)
    draw_teacher_attention(model, evaluation.dataloader.dataset, attention)


def draw_teacher_attention(model, dataset, out: Path) -> Path:
    """Draws attention for query crops at random positions of the shown images."""
    backbone, size = model.teacher['backbone'], dataset.transform.size
    samples = collate_samples([dataset[i] for i in spread(len(dataset))])
    shown = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in samples['images']]
    side = size // 3
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, size - side + 1, (NUM_SHOWN, 3, 2), generator=generator)
    boxes = torch.cat((corners, corners + side), dim=2)
    crops = torch.stack(
        [
            torch.stack([torch.from_numpy(crop_and_resize(image, box, backbone.patch_size).copy()) for box in row])
            for image, row in zip(shown, boxes.tolist(), strict=True)
        ]
    )
    normalize, device = model.data_preprocessor.normalize, model.data_preprocessor.mean.device
    images, crops = (normalize(pixels.to(device).float()) for pixels in (samples['images'], crops))
    return draw_attention(backbone, images, crops, shown, boxes, out)


def spread(length: int) -> list[int]:
    """Indices spread over the data set: paths are sorted, so neighboring images are of the same class."""
    return [(2 * i + 1) * length // (2 * NUM_SHOWN) for i in range(NUM_SHOWN)]


def versions() -> dict[str, str]:
    modules = (mmadclr, torch, torchvision, mmengine, timm)
    return {'python': platform.python_version(), **{module.__name__: module.__version__ for module in modules}}


def table(summary: dict) -> str:
    """One line per initialization; cells of parts that were not run are empty."""
    columns = {'knn': 'k-NN top-1', 'probe_miou': 'probe mIoU', 'box_ap': 'box AP', 'mask_ap': 'mask AP', 'miou': 'mIoU'}
    rows = {'raw pixels': ('pixels',), 'random initialization': ('random',), 'ADCLR teacher': ('teacher', 'pretrained')}
    rule = '-' * (22 + 13 * len(columns))
    lines = ['', ' ' * 22 + ''.join(f'{title:>13}' for title in columns.values()), rule]
    for title, names in rows.items():
        found = [next((summary[f'{key}_{name}'] for name in names if f'{key}_{name}' in summary), None) for key in columns]
        lines.append(f'{title:<22}' + ''.join(f'{"" if value is None else f"{value:.1f} %":>13}' for value in found))
    seconds = sum(value for key, value in summary.items() if key.startswith('seconds_'))
    return '\n'.join([*lines, rule, f'{"frozen features":>48}{"fine-tuned":>26}', f'{seconds:.0f} s'])
