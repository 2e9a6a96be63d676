"""What pretraining has to beat: the network before it, and the pixels themselves.

``python -m mmadclr.compare.baselines CONFIG --work-dir DIR`` writes the untrained network of the config, drawn with its
seed, to ``DIR/random.pth`` and the metrics of raw pixels to ``DIR/pixels.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from mmengine.runner import Runner as BaseRunner

from mmadclr.checkpoint.run_files import write_checkpoint
from mmadclr.cli.launch import add_config_arguments, report_bad_input
from mmadclr.config.loading import load_config
from mmadclr.engine import Runner
from mmadclr.evaluation import RawPixels
from mmadclr.files import atomic_path
from mmadclr.models.backbones.query_vit import resolve_arch

RANDOM, PIXELS = 'random.pth', 'pixels.json'


def knn_top1(metrics: Mapping[str, float]) -> float:
    """Top-1 of the k-NN with k = 20, which the field reports; of the first k where that was not measured."""
    twenty = [name for name in metrics if name.startswith('knn20_') and name.endswith('_top1')]
    return metrics[twenty[0]] if twenty else next(iter(metrics.values()))


def headline(metrics: Mapping[str, float]) -> dict[str, float]:
    """Of all metrics of a validation: k-NN top-1 of the images, and where it is measured mIoU of the linear patch probe."""
    found = {'knn': round(knn_top1(metrics), 2)}
    if 'patch_linear_miou' in metrics:
        found['probe_miou'] = round(metrics['patch_linear_miou'], 2)
    return found


def raw_pixels(runner: BaseRunner) -> RawPixels:
    """The normalized pixels of a pretraining run's images as features, by its patches for dense probes."""
    return RawPixels(runner.model.data_preprocessor, resolve_arch(runner.cfg.model.backbone.arch)['patch_size'])


@report_bad_input
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    args = parser.parse_args()
    runner = Runner.from_cfg(load_config(args))
    out = Path(runner.work_dir)
    content = {'meta': runner.checkpoint_meta(0), 'state_dict': runner.model.state_dict()}
    write_checkpoint(content, out / RANDOM)
    pixels = headline(runner.build_val_loop(runner.val_loop).evaluate(raw_pixels(runner)))
    with atomic_path(out / PIXELS) as temporary:
        temporary.write_text(json.dumps(pixels) + '\n')


if __name__ == '__main__':
    main()
