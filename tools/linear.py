"""Linear classifiers on frozen features: ``python tools/linear.py CHECKPOINT --train DIR --val DIR``.

Features of center crops are extracted once, and a classifier is trained on them for each of many learning rates.
``linear_top1`` is the accuracy at the rate that is best on held-out training images, ``linear_top1_best_on_val`` the best on
the validation images, which published sweeps report. CHECKPOINT may be of any known layout, or a config of ours for the
randomly initialized backbone.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from mmengine.device import get_device
from mmengine.dist import is_main_process

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
from mmadclr.evaluation.linear import LEARNING_RATES, LinearRecipe, LinearResult, evaluate_linear
from mmadclr.files import atomic_path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_backbone_arguments(parser)
    add_image_arguments(parser)
    default = LinearRecipe()
    parser.add_argument(
        '--lr',
        type=float,
        nargs='+',
        default=LEARNING_RATES,
        help="peak learning rates for 256 images; default: iBOT's 45",
    )
    parser.add_argument('--epochs', type=positive, default=default.epochs)
    parser.add_argument('--train-batch-size', type=positive, default=default.batch_size, help='features of a step')
    parser.add_argument(
        '--held-out', type=float, help='share of --train the rate is chosen on; by default 2,000 images, within 2 and 20 %%'
    )
    parser.add_argument('--retrain', action='store_true', help='train at the chosen rate again, with the held-out images')
    parser.add_argument(
        '--save', metavar='FILE', help='write the chosen classifier (of the first draw of --shots): weight, bias, classes'
    )
    return parser.parse_args()


def save(filename: str, result: LinearResult, classes: tuple[str, ...]) -> None:
    """Writes ``weight`` (C, D), ``bias`` (C,), ``classes`` and ``metrics`` for ``torch.load(..., weights_only=True)``."""
    weight, bias = (part[0].cpu() for part in result.classifier)
    content = dict(weight=weight, bias=bias, classes=list(classes), metrics=result.metrics)
    with atomic_path(filename) as temporary, temporary.open('wb') as file:
        torch.save(content, file)


@report_bad_input
def main() -> None:
    args = parse_args()
    recipe = LinearRecipe(
        learning_rates=tuple(args.lr),
        epochs=args.epochs,
        batch_size=args.train_batch_size,
        held_out=args.held_out,
        retrain=args.retrain,
        seed=args.seed,
    )
    start_processes(args, args.save)
    sets = load_features(args, 'linear')
    results = []

    def evaluate(train) -> dict:
        results.append(evaluate_linear(train, sets.val, recipe, get_device()))
        return {**results[-1].metrics, 'learning_rates': results[-1].table}

    finish(args, {**over_draws(sets, evaluate), **sets.about})
    if args.save and is_main_process():
        save(args.save, results[0], sets.train.classes)


if __name__ == '__main__':
    main()
