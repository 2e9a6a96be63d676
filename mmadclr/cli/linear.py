"""Train linear classifiers on frozen features, and measure their accuracy.

Features of center crops are extracted once. On them, a classifier is trained for each of many learning rates.
``linear_top1`` is the accuracy at the rate that is best on held-out training images. ``linear_top1_best_on_val`` is the best
accuracy on the validation images, which published sweeps report. CHECKPOINT may have any supported layout. A config of
mmadclr gives the randomly initialized backbone.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from mmadclr.cli.argument_types import positive
from mmadclr.cli.evaluation_arguments import add_backbone_arguments, add_image_arguments

if TYPE_CHECKING:
    from mmadclr.evaluation.linear import LinearRecipe, LinearResult

USAGE = 'CHECKPOINT --train DIR --val DIR [options]'
EXAMPLE = 'work_dirs/vits16_folder/epoch_200.pth --train images/train --val images/val'


def add_arguments(parser: ArgumentParser) -> None:
    """Declares the arguments of the command."""
    add_backbone_arguments(parser)
    add_image_arguments(parser)
    parser.add_argument('--lr', type=float, nargs='+', help='peak learning rates per 256 images (default: the 45 of iBOT)')
    parser.add_argument('--epochs', type=positive, metavar='N', help='epochs of training (default: 100)')
    parser.add_argument('--train-batch-size', type=positive, metavar='N', help='features per step (default: 1024)')
    parser.add_argument(
        '--held-out',
        type=float,
        metavar='SHARE',
        help='fraction of --train on which the rate is chosen (default: 2,000 images, but 2 to 20 %%)',
    )
    parser.add_argument(
        '--retrain', action='store_true', help='train again at the chosen rate, including the held-out images'
    )
    parser.add_argument(
        '--save', metavar='FILE', help='write the chosen classifier (of the first draw of --shots): weight, bias, classes'
    )


def run(args: Namespace) -> None:
    """Prints the accuracies as JSON, and writes the classifier."""
    from mmengine.device import get_device
    from mmengine.dist import is_main_process

    from mmadclr.cli.evaluation import finish, load_features, over_draws, start_processes
    from mmadclr.evaluation.linear import evaluate_linear

    recipe = recipe_of(args)
    start_processes(args, args.save)
    sets = load_features(args, 'linear')
    results = []

    def evaluate(train) -> dict:
        results.append(evaluate_linear(train, sets.val, recipe, get_device()))
        return {**results[-1].metrics, 'learning_rates': results[-1].table}

    finish(args, {**over_draws(sets, evaluate), **sets.about})
    if args.save and is_main_process():
        save(args.save, results[0], sets.train.classes)


def recipe_of(args: Namespace) -> LinearRecipe:
    """The recipe; settings without an argument keep their defaults."""
    from mmadclr.evaluation.linear import LinearRecipe

    given = dict(learning_rates=args.lr and tuple(args.lr), epochs=args.epochs, batch_size=args.train_batch_size)
    given = {name: value for name, value in given.items() if value is not None}
    return LinearRecipe(**given, held_out=args.held_out, retrain=args.retrain, seed=args.seed)


def save(filename: str, result: LinearResult, classes: tuple[str, ...]) -> None:
    """Writes ``weight`` (C, D), ``bias`` (C,), ``classes`` and ``metrics`` for ``torch.load(..., weights_only=True)``."""
    import torch

    from mmadclr.files import atomic_path

    weight, bias = (part[0].cpu() for part in result.classifier)
    content = dict(weight=weight, bias=bias, classes=list(classes), metrics=result.metrics)
    with atomic_path(filename) as temporary, temporary.open('wb') as file:
        torch.save(content, file)
