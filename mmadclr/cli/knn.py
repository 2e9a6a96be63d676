"""Measure k-NN accuracy of frozen features.

CHECKPOINT may have any supported layout. A config of mmadclr gives the randomly initialized backbone.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from mmadclr.cli.argument_types import positive
from mmadclr.cli.evaluation_arguments import add_backbone_arguments, add_image_arguments

USAGE = 'CHECKPOINT --train DIR --val DIR [options]'
EXAMPLE = 'work_dirs/vits16_folder/epoch_200.pth --train images/train --val images/val'


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    add_backbone_arguments(parser)
    add_image_arguments(parser)
    parser.add_argument(
        '--k', type=positive, nargs='+', default=[10, 20, 100, 200], help='numbers of neighbors (default: 10 20 100 200)'
    )
    parser.add_argument(
        '--temperature', type=float, nargs='+', default=[0.07], metavar='T', help='temperatures of the votes (default: 0.07)'
    )


def run(args: Namespace) -> None:
    """Prints the accuracies as JSON."""
    from mmengine.device import get_device

    from mmadclr.cli.evaluation import finish, load_features, over_draws, start_processes
    from mmadclr.evaluation.knn import WeightedKNN, evaluate_knn

    metric = WeightedKNN(args.k, args.temperature)
    start_processes(args)
    sets = load_features(args, 'knn', least=max(args.k))
    metrics = over_draws(sets, lambda train: evaluate_knn(metric, train, sets.val, get_device()))
    finish(args, {**metrics, **sets.about})
