"""The dense tasks on which pretrained networks are fine-tuned, and their metrics."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mmengine.config import DictAction

ROOT = Path(__file__).resolve().parents[2]  # root of the clone, with configs and tools


class DenseTask(NamedTuple):
    """``config``: file in the clone. ``metrics``: our name -> name in the log and factor to percent."""

    config: str
    metrics: dict[str, tuple[str, float]]

    def read(self, logged: Callable[[str], float]) -> dict[str, float]:
        """Metrics in percent, to two digits; ``logged`` returns the last value of a name in the log."""
        return {key: round(scale * float(logged(name)), 2) for key, (name, scale) in self.metrics.items()}


DENSE_TASKS = {
    'detection': DenseTask(
        'configs/benchmarks/demo/mask-rcnn_shapes.py',
        {'box_ap': ('coco/bbox_mAP', 100), 'mask_ap': ('coco/segm_mAP', 100)},
    ),
    'segmentation': DenseTask('configs/benchmarks/demo/upernet_shapes.py', {'miou': ('mIoU', 1)}),
}


def add_dense_arguments(parser: ArgumentParser) -> None:
    """Adds ``--detection-options`` and ``--segmentation-options``."""
    for part in DENSE_TASKS:
        parser.add_argument(
            f'--{part}-options',
            nargs='+',
            action=DictAction,
            default={},
            metavar='KEY=VALUE',
            help=f'override keys of the config of {part}',
        )


def chosen_tasks(args: Namespace) -> dict[str, tuple[str | None, dict]]:
    """Config (None: the demo's) and overrides of every dense task in ``--parts``.

    Raises:
        ValueError: They are given for a task that is not in ``--parts``.
    """
    given = {part: (getattr(args, f'{part}_config'), getattr(args, f'{part}_options')) for part in DENSE_TASKS}
    for part, settings in given.items():
        if any(settings) and part not in args.parts:
            raise ValueError(f'--{part}-config and --{part}-options require the part {part}: add it to --parts')
    return {part: settings for part, settings in given.items() if part in args.parts}
