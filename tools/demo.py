"""Pretrains ADCLR on generated images and shows that its features improve: ``make demo``.

Draws the images, measures k-NN of raw pixels and of the untrained network, trains, measures again, draws pictures and
prints a table. Everything lands in the work dir; ``summary.json`` holds the numbers.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import mmengine
import timm
import torch
import torchvision
from PIL import Image

import mmadclr
from mmadclr.datasets import collate_samples
from mmadclr.datasets.image_dataset import load_rgb
from mmadclr.datasets.transforms import crop_and_resize
from mmadclr.engine import Runner
from mmadclr.engine.launch import add_config_arguments, load_config, report_bad_input
from mmadclr.evaluation import RawPixels
from mmadclr.visualization import draw_attention, draw_crops, draw_curves

NUM_SHOWN = 6


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser, default_config=str(ROOT / 'configs/demo/adclr_vittiny_shapes.py'))
    parser.add_argument('--seed', type=int, default=0, help='seed of initialisation, order and augmentation')
    return parser.parse_args()


@report_bad_input
def main() -> None:
    args = parse_args()
    start = time.time()
    cfg = load_config(args)
    cfg.work_dir = args.work_dir or 'work_dirs/demo'
    cfg.randomness = dict(seed=args.seed)
    runner = Runner.from_cfg(cfg)
    evaluation = runner.build_val_loop(runner.val_loop)
    summary = {
        'knn_pixels': headline(evaluation.evaluate(RawPixels(runner.model.data_preprocessor))),
        'knn_random': headline(evaluation.evaluate(runner.model)),
    }
    runner.train()
    summary['knn_teacher'] = headline(evaluation.evaluate(runner.model))
    pictures = draw_pictures(runner, evaluation, summary)
    summary['seconds'] = round(time.time() - start, 1)
    summary['versions'] = versions()
    Path(cfg.work_dir, 'summary.json').write_text(json.dumps(summary, indent=1) + '\n')
    print(table(summary, pictures))


def headline(metrics: dict[str, float]) -> float:
    """The first metric of the first evaluator: k-NN top-1."""
    return round(next(iter(metrics.values())), 2)


def draw_pictures(runner: Runner, evaluation, summary: dict) -> list[Path]:
    """Crops of a batch, curves of the run, attention of the trained teacher on validation images."""
    out, model = Path(runner.work_dir), runner.model.eval()
    train = runner.train_dataloader.dataset
    preprocessor = model.data_preprocessor
    shown = spread(len(train))
    data = collate_samples([train[i] for i in shown])
    views = preprocessor(data, True)['views']
    images = [load_rgb(train.path(i)) for i in shown]
    mean, std = preprocessor.mean, preprocessor.std
    pictures = [draw_crops(images, data, views, mean, std, out / 'crops.png')]
    baselines = {'raw pixels': summary['knn_pixels'], 'random network': summary['knn_random']}
    scalars = Path(runner.log_dir, 'vis_data', 'scalars.json')
    pictures.append(draw_curves(scalars, out / 'curves.png', baselines))
    return [*pictures, draw_teacher_attention(model, evaluation.dataloader.dataset, out / 'attention.png')]


def draw_teacher_attention(model, dataset, out: Path) -> Path:
    """Attention for query crops cut out of the shown images themselves, at random places."""
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
    normalise, device = model.data_preprocessor.normalise, model.data_preprocessor.mean.device
    images, crops = (normalise(pixels.to(device).float()) for pixels in (samples['images'], crops))
    return draw_attention(backbone, images, crops, shown, boxes, out)


def spread(length: int) -> list[int]:
    """Indices over the whole data set: paths are sorted, so neighbours are of one class."""
    return [(2 * i + 1) * length // (2 * NUM_SHOWN) for i in range(NUM_SHOWN)]


def versions() -> dict[str, str]:
    modules = (mmadclr, torch, torchvision, mmengine, timm)
    return {'python': platform.python_version(), **{module.__name__: module.__version__ for module in modules}}


def table(summary: dict, pictures: list[Path]) -> str:
    rows = [
        ('raw pixels', summary['knn_pixels']),
        ('random initialisation', summary['knn_random']),
        ('ADCLR teacher', summary['knn_teacher']),
    ]
    lines = ['', f'{"features":<24}k-NN top-1 (k = 20)', '-' * 43, *(f'{name:<24}{value:>6.1f} %' for name, value in rows)]
    lines += ['-' * 43, f'{summary["seconds"]:.0f} s; pictures: {", ".join(map(os.path.relpath, pictures))}']
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
