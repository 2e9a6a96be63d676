"""Evaluation of frozen features inside mmengine's runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn

from mmadclr.config.check import check_config
from mmadclr.datasets.listing import listed_alike
from mmadclr.datasets.loader_workers import outlive_signals
from mmadclr.evaluation.extraction import extract_shard
from mmadclr.registry import LOOPS, METRICS, ConfigOf

BANK_DTYPES = {None: None, 'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


class BankForm:
    """Converts features to the dtype and device of the bank; see ``FeatureEvalLoop``."""

    def __init__(self, dtype: str | None, device: str | None) -> None:
        if dtype not in BANK_DTYPES:
            raise ValueError(f"bank_dtype={dtype!r}: choose one of 'fp32', 'bf16' and 'fp16'")
        if device not in (None, 'cpu'):
            raise ValueError(f"bank_device={device!r}: choose 'cpu', or omit it to keep the bank on the device")
        self.dtype, self.device = BANK_DTYPES[dtype], device

    def __call__(self, features: Tensor) -> Tensor:
        """Converted features.

        Raises:
            ValueError: They overflow fp16.
        """
        kept = features.to(self.device or features.device, self.dtype or features.dtype)
        if kept.dtype == torch.float16 and (kept.isinf().any() and features.isfinite().all()):
            raise ValueError("the features of the bank overflow bank_dtype='fp16': choose 'bf16'")
        return kept


@LOOPS.register_module()
class FeatureEvalLoop(BaseLoop):
    """Extracts features of a bank and of the evaluation images, and passes both to the evaluators.

    Used for validation during pretraining (``val_cfg``) and for testing a checkpoint.

    Args:
        runner, dataloader, evaluator: Set by the runner; ``evaluator`` holds configs from the metric registry,
            called with ``(bank, bank_labels, features, labels)`` and returning a dict of metrics. Evaluators with a method
            ``of_shards`` receive this process's shards of bank and images (``Shard``) instead, without gathering.
        bank: Overrides of the data set of ``dataloader`` that define the bank, the labeled images from which predictions are
            drawn; usually ``data_root``.
        dense_probe: Settings of a ``DenseProbe`` to run as well.
        bank_dtype: ``'fp32'``, ``'bf16'`` or ``'fp16'``, the dtype in which the bank is stored; by default the model's.
        bank_device: ``'cpu'`` stores the bank in host memory; by default it stays on the device.

    Raises:
        ConfigError: ``bank`` has keys that the data set does not accept.
        ValueError: The two sets have different classes, or ``bank_dtype`` or ``bank_device`` is unknown.
    """

    def __init__(
        self,
        runner,
        dataloader: dict,
        evaluator: dict | Sequence[dict],
        bank: Annotated[dict, ConfigOf('ImageDataset', like='dataloader.dataset')],
        dense_probe: Annotated[dict, ConfigOf('DenseProbe')] | None = None,
        bank_dtype: str | None = None,
        bank_device: str | None = None,
    ) -> None:
        super().__init__(runner, dataloader)
        self.keep = BankForm(bank_dtype, bank_device)
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
                f'{self.bank_dataloader.dataset.data_root} and {self.dataloader.dataset.data_root} have different classes: '
                'their labels are not comparable'
            )

    def run(self) -> dict[str, float]:
        """Logs the metrics through the hooks and returns them."""
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        metrics = self.evaluate(self.runner.model)
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics of any model that ``extract_shard`` accepts."""
        metrics = self._of_features(model)
        if self.dense_probe is not None:
            metrics |= self.dense_probe(model)
        return metrics

    def _of_features(self, model: nn.Module) -> dict[str, float]:
        bank, features = extract_shard(model, self.bank_dataloader, keep=self.keep), extract_shard(model, self.dataloader)
        metrics: dict[str, float] = {}
        full = None
        for evaluator in self.evaluators:
            if hasattr(evaluator, 'of_shards'):
                metrics |= evaluator.of_shards(bank, features)
            else:
                full = full or (*bank.full(), *features.full())
                metrics |= evaluator(*full)
        return metrics
