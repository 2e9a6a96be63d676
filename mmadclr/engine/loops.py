"""Evaluation of frozen features inside mmengine's runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmadclr.datasets.loader_workers import outlive_signals
from mmadclr.engine.config_check import check_config
from mmadclr.engine.listing import listed_alike
from mmadclr.evaluation.features import extract_features
from mmadclr.registry import LOOPS, METRICS, ConfigOf


@LOOPS.register_module()
class FeatureEvalLoop(BaseLoop):
    """Extracts features of a bank and of the evaluation images, and hands both to the evaluators.

    Serves as validation during pretraining (``val_cfg``) and as the test of a checkpoint.

    Args:
        runner, dataloader, evaluator: Filled in by the runner; ``evaluator`` holds configs from the metric registry,
            called with ``(bank, bank_labels, features, labels)`` and returning named numbers.
        bank: What the bank, the labelled images that predictions are drawn from, differs in from the data set of
            ``dataloader``: usually ``data_root``.
        dense_probe: Settings of a ``DenseProbe`` to be run as well.

    Raises:
        ConfigError: ``bank`` has keys the data set does not know.
        ValueError: The two sets hold different classes.
    """

    def __init__(
        self,
        runner,
        dataloader: dict,
        evaluator: dict | Sequence[dict],
        bank: dict,
        dense_probe: Annotated[dict, ConfigOf('DenseProbe')] | None = None,
    ) -> None:
        super().__init__(runner, dataloader)
        self.dense_probe = None
        bank_dataloader = {**dataloader, 'dataset': {**dataloader['dataset'], **bank}}
        check_config({'bank_dataloader': bank_dataloader})
        bank_dataloader['dataset'] = listed_alike(bank_dataloader['dataset'])
        self.bank_dataloader = outlive_signals(Runner.build_dataloader(bank_dataloader, seed=runner.seed))
        evaluators = [evaluator] if isinstance(evaluator, dict) else evaluator
        self.evaluators = [METRICS.build(each) for each in evaluators]
        if dense_probe is not None:
            check_config({'dense_probe': {'type': 'DenseProbe', **dense_probe}})
            self.dense_probe = METRICS.build({'type': 'DenseProbe', **dense_probe})
        if self.bank_dataloader.dataset.metainfo != self.dataloader.dataset.metainfo:
            raise ValueError(
                f'{self.bank_dataloader.dataset.data_root} and {self.dataloader.dataset.data_root} hold different classes: '
                'the labels of the one mean nothing in the other'
            )

    def run(self) -> dict[str, float]:
        """Returns the metrics, after logging them through the hooks."""
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        metrics = self.evaluate(self.runner.model)
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The metrics of any model that ``extract_features`` can use."""
        bank = extract_features(model, self.bank_dataloader)
        features = extract_features(model, self.dataloader)
        metrics: dict[str, float] = {}
        for evaluator in self.evaluators:
            metrics |= evaluator(*bank, *features)
        if self.dense_probe is not None:
            metrics |= self.dense_probe(model)
        return metrics
