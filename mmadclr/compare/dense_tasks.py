"""The dense tasks on which pretrained networks are fine-tuned, and their metrics."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple


class DenseTask(NamedTuple):
    """``config``: name of a shipped one. ``metrics``: our name -> name in the log and factor to percent."""

    config: str
    metrics: dict[str, tuple[str, float]]

    def read(self, logged: Callable[[str], float]) -> dict[str, float]:
        """Metrics in percent, to two digits; ``logged`` returns the last value of a name in the log."""
        return {key: round(scale * float(logged(name)), 2) for key, (name, scale) in self.metrics.items()}


DENSE_TASKS = {
    'detection': DenseTask(
        'benchmarks/demo/mask-rcnn_shapes',
        {'box_ap': ('coco/bbox_mAP', 100), 'mask_ap': ('coco/segm_mAP', 100)},
    ),
    'segmentation': DenseTask('benchmarks/demo/upernet_shapes', {'miou': ('mIoU', 1)}),
}
PARTS = ('pretraining', 'knn', 'linear', 'dense', *DENSE_TASKS)  # of a comparison; and the dense suite


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
