"""Optimizer, metric and loops for sweeping learning rates of linear classifiers.

Implements the published protocol: augmented images, so that the backbone runs in every step, on mmpretrain's pipelines,
with the checkpoints, schedules and optimizers (``torch.optim.SGD``) of training. ``evaluation/linear.py`` instead extracts
features once, where a step is two small matrix products. Both choose a rate by the same function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from mmadclr.config.check import check_config
from mmadclr.distributed.wrappers import unwrapped
from mmadclr.evaluation.linear import choose
from mmadclr.models.heads.linear_sweep_head import LinearSweepHead
from mmadclr.registry import LOOPS, METRICS, OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, root

# Settings that determine which images `ClassFolders` holds out.
SPLIT_SETTINGS = ('data_root', 'split', 'list_file', 'held_out_fraction', 'held_out_seed')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LinearSweepOptimConstructor:
    """Builds one parameter group per classifier of a ``LinearSweepHead``, each with its own learning rate.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper; its optimizer must not set ``lr``.
        paramwise_cfg: Must be empty.

    Raises:
        ValueError: ``lr`` or ``paramwise_cfg`` is set, the head is of another type, or the backbone is not frozen.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        if paramwise_cfg:
            raise ValueError('paramwise_cfg has no effect with LinearSweepOptimConstructor: remove it')
        if 'lr' in optim_wrapper_cfg['optimizer']:
            raise ValueError('optimizer.lr has no effect in a sweep: set model.head.learning_rates')
        self.cfg = optim_wrapper_cfg

    def __call__(self, model: nn.Module) -> OptimWrapper:
        network = unwrapped(model)
        if not isinstance(network.head, LinearSweepHead):
            raise ValueError(f'LinearSweepOptimConstructor requires a LinearSweepHead, not {type(network.head).__name__}')
        if any(parameter.requires_grad for parameter in network.backbone.parameters()):
            raise ValueError('a sweep requires a frozen backbone: set model.backbone.frozen_stages to its number of blocks')
        groups = [
            dict(params=list(classifier.parameters()), lr=rate)
            for rate, classifier in zip(network.head.learning_rates, network.head.classifiers, strict=True)
        ]
        cfg = {'type': 'AutocastOptimWrapper', **self.cfg}
        # The optimizer's default rate, which no group uses, is logged as base_lr: the highest of all classifiers.
        lr = max(network.head.learning_rates)
        optimizer = root.OPTIMIZERS.build({**cfg.pop('optimizer'), 'lr': lr, 'params': groups})
        return OPTIM_WRAPPERS.build({**cfg, 'optimizer': optimizer})


@METRICS.register_module()
class SweepAccuracy(BaseMetric):
    """Top-1 accuracy in percent of every classifier of a sweep, by index, computed as in mmpretrain's ``Accuracy``."""

    default_prefix = 'sweep'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        self.results += [(sample['pred_label'].cpu(), sample['gt_label'].cpu()) for sample in data_samples]

    def compute_metrics(self, results: list) -> dict[str, float]:
        from mmpretrain.evaluation import Accuracy

        predicted, labels = (torch.stack(column) for column in zip(*results, strict=True))
        return {str(number): Accuracy.calculate(column, labels[:, 0]).item() for number, column in enumerate(predicted.T)}


@LOOPS.register_module()
class LinearSweepLoop(BaseLoop):
    """Scores every classifier of a sweep on held-out training images, then on the evaluation images.

    Reports, in percent:

    * ``linear_top1``: evaluation accuracy at the learning rate that is best on the held-out images. Report this number: the
      evaluation images were not used to choose the rate.
    * ``linear_top1_best_on_val``: the best evaluation accuracy over all rates, as reported by iBOT and others; biased upward
      by selection on the evaluation set.
    * ``linear_lr``, ``linear_lr_best_on_val``: those two rates, as named in the head, and ``linear_top1_held_out``.
    * ``linear_top1_by_lr/<rate>``: evaluation accuracy at each rate.

    Args:
        runner, dataloader, evaluator: Set by the runner.
        held_out: Overrides of the data set of ``dataloader`` that define the held-out images.
        stage: ``'val'`` in ``val_cfg``, ``'test'`` in ``test_cfg``.

    Raises:
        ConfigError: ``held_out`` has keys that the data set does not accept.
        ValueError: The classifiers are trained on held-out images.
    """

    def __init__(
        self, runner, dataloader: dict, evaluator: dict | Sequence[dict], held_out: dict, stage: str = 'val'
    ) -> None:
        super().__init__(runner, dataloader)
        self.stage = stage
        held_out_dataloader = {**dataloader, 'dataset': {**dataloader['dataset'], **held_out}}
        check_config({'default_scope': runner.default_scope.scope_name, 'held_out_dataloader': held_out_dataloader})
        self.held_out_dataloader = runner.build_dataloader(held_out_dataloader, seed=runner.seed)
        self.evaluator = runner.build_evaluator(evaluator)
        self.evaluator.dataset_meta = runner.visualizer.dataset_meta = self.dataloader.dataset.metainfo
        train = runner.cfg.get('train_dataloader')
        if train is not None:
            check_disjoint(train['dataset'], held_out_dataloader['dataset'])

    def run(self) -> dict[str, float]:
        """Logs the metrics through the hooks and returns them."""
        self.runner.call_hook(f'before_{self.stage}')
        self.runner.call_hook(f'before_{self.stage}_epoch')
        self.runner.model.eval()
        held_out = self.score(self.held_out_dataloader)
        found = self.score(self.dataloader, with_hooks=True)
        metrics = choose_rate(unwrapped(self.runner.model).head.learning_rates, held_out, found)
        self.runner.call_hook(f'after_{self.stage}_epoch', metrics=metrics)
        self.runner.call_hook(f'after_{self.stage}')
        return metrics

    @torch.no_grad()
    def score(self, dataloader: DataLoader, with_hooks: bool = False) -> list[float]:
        """Accuracy of every classifier on the images of a loader; calls the iteration hooks if ``with_hooks``."""
        for index, batch in enumerate(dataloader):
            if with_hooks:
                self.runner.call_hook(f'before_{self.stage}_iter', batch_idx=index, data_batch=batch)
            outputs = self.runner.model.test_step(batch)
            self.evaluator.process(data_samples=outputs, data_batch=batch)
            if with_hooks:
                self.runner.call_hook(f'after_{self.stage}_iter', batch_idx=index, data_batch=batch, outputs=outputs)
        images: Any = dataloader.dataset
        found = self.evaluator.evaluate(len(images))
        return [found[f'sweep/{number}'] for number in range(len(unwrapped(self.runner.model).head.learning_rates))]


def choose_rate(rates: Sequence[float], held_out: Sequence[float], found: Sequence[float]) -> dict[str, float]:
    """Metrics of a sweep from the held-out and evaluation accuracies of all rates; ties go to the first rate."""
    table = [
        dict(lr=rate, diverged=False, held_out_top1=held, top1=top1)  # a diverged one has a low accuracy
        for rate, held, top1 in zip(rates, held_out, found, strict=True)
    ]
    chosen, best = choose(table, 'held_out_top1'), choose(table, 'top1')
    return {
        'linear_top1': chosen['top1'],
        'linear_lr': chosen['lr'],
        'linear_top1_held_out': chosen['held_out_top1'],
        'linear_top1_best_on_val': best['top1'],
        'linear_lr_best_on_val': best['lr'],
        **{f'linear_top1_by_lr/{rate:g}': accuracy for rate, accuracy in zip(rates, found, strict=True)},
    }


def check_disjoint(train: Mapping, held_out: Mapping) -> None:
    """Compares the configs of two ``ClassFolders``.

    Raises:
        ValueError: Held-out images may be part of the training images.
    """
    differing = [key for key in SPLIT_SETTINGS if train.get(key) != held_out.get(key)]
    if train.get('part') != 'train' or held_out.get('part') != 'held_out' or differing:
        raise ValueError(
            'the classifiers would be trained on held-out images: set train_dataloader.dataset.part=train, part=held_out in '
            f'held_out of the loops, and the same {", ".join(differing or SPLIT_SETTINGS)} in both'
        )
