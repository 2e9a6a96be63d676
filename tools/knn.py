"""k-NN accuracy of frozen features: ``python tools/knn.py CHECKPOINT --train DIR --val DIR``.

CHECKPOINT may be of any known layout, or a config of ours for the randomly initialized backbone.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmengine.device import get_device

from mmadclr.cli.argument_types import positive
from mmadclr.cli.evaluation import (
    add_backbone_arguments,
    add_image_arguments,
    finish,
    load_features,
    over_draws,
    start_processes,
)
from mmadclr.cli.launch import report_bad_input
from mmadclr.evaluation.knn import WeightedKNN, evaluate_knn


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_backbone_arguments(parser)
    add_image_arguments(parser)
    parser.add_argument('--k', type=positive, nargs='+', default=[10, 20, 100, 200], help='numbers of neighbors')
    parser.add_argument('--temperature', type=float, nargs='+', default=[0.07], help='of the votes')
    return parser.parse_args()


@report_bad_input
def main() -> None:
    args = parse_args()
    metric = WeightedKNN(args.k, args.temperature)
    start_processes(args)
    sets = load_features(args, 'knn', least=max(args.k))
    metrics = over_draws(sets, lambda train: evaluate_knn(metric, train, sets.val, get_device()))
    finish(args, {**metrics, **sets.about})


if __name__ == '__main__':
    main()
