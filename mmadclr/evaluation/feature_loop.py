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
from mmadclr.evaluation.evaluators import build_evaluators, evaluate_all
from mmadclr.evaluation.extraction import extract_shard
from mmadclr.registry import LOOPS, METRICS, ConfigOf

BANK_DTYPES = {None: None, 'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


class BankForm:
    """Brings features to the form a bank keeps them in; see ``FeatureEvalLoop``."""

    def __init__(self, dtype: str | None, device: str | None) -> None:
        if dtype not in BANK_DTYPES:
            raise ValueError(f"bank_dtype={dtype!r}: choose one of 'fp32', 'bf16' and 'fp16'")
        if device not in (None, 'cpu'):
            raise ValueError(f"bank_device={device!r}: choose 'cpu', or leave it out to keep the bank on the device")
        self.dtype, self.device = BANK_DTYPES[dtype], device

    def __call__(self, features: Tensor) -> Tensor:
        """The same numbers in that form.

        Raises:
            ValueError: They do not fit into 16 bits.
        """
        kept = features.to(self.device or features.device, self.dtype or features.dtype)
        if kept.dtype == torch.float16 and (kept.isinf().any() and features.isfinite().all()):
            raise ValueError("the features of the bank are too large for bank_dtype='fp16': choose 'bf16'")
        return kept


@LOOPS.register_module()
class FeatureEvalLoop(BaseLoop):
    """Extracts features of a bank and of the evaluation images, and hands both to the evaluators.

    Serves as validation during pretraining (``val_cfg``) and as the test of a checkpoint.

    Args:
        runner, dataloader, evaluator: Filled in by the runner; ``evaluator`` is the config of one or several evaluators,
            see :mod:`mmadclr.evaluation.evaluators`.
        bank: What the bank, the labeled images that predictions are drawn from, differs in from the data set of
            ``dataloader``: usually ``data_root``.
        dense_probe: Settings of a ``DenseProbe`` to be run as well.
        bank_dtype: ``'fp32'``, ``'bf16'`` or ``'fp16'``, in which the features of the bank are kept; by default as the model
            gives them.
        bank_device: ``'cpu'`` keeps them in the memory of the host; by default they stay on the device.

    Raises:
        ConfigError: ``bank`` has keys the data set does not know.
        ValueError: The two sets hold different classes, an unknown ``bank_dtype`` or ``bank_device``, or see
            ``build_evaluators``.
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
        self.evaluators = build_evaluators(evaluator, 'val_evaluator')
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
        """The metrics of any model that ``extract_shard`` can use."""
        metrics = self._of_features(model)
        if self.dense_probe is not None:
            metrics |= self.dense_probe(model)
        return metrics

    def _of_features(self, model: nn.Module) -> dict[str, float]:
        bank, features = extract_shard(model, self.bank_dataloader, keep=self.keep), extract_shard(model, self.dataloader)
        return evaluate_all(self.evaluators, bank, features)
