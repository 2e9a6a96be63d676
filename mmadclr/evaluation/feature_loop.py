"""Evaluation of frozen features inside mmengine's runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar

import torch
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn

from mmadclr.config.check import check_config
from mmadclr.datasets.listing import listed_alike
from mmadclr.datasets.loader_workers import outlive_signals
from mmadclr.evaluation.evaluators import build_evaluator, named_numbers
from mmadclr.evaluation.extraction import extract_shard
from mmadclr.registry import LOOPS, ConfigOf

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
    """Extracts features of a bank and of the evaluation images, and passes them to the evaluators.

    Used for validation during pretraining (``val_cfg``) and for testing a checkpoint.

    An evaluator is a class of the metric registry that returns a dict of metrics. It has one of these methods:

    * ``of_shards(bank, features)`` receives this process's shards of both (``Shard``), without gathering.
    * ``of_model(model)`` receives the model and reads its own data, as ``DenseProbe`` does.
    * ``__call__(bank, bank_labels, features, labels)`` receives the features (N, D) and labels (N,) of all processes.

    If two evaluators return the same name, that of the second is prefixed with its key (``dense2/patch_knn_miou``).

    Args:
        runner, dataloader: Set by the runner.
        evaluator: Set by the runner from ``val_evaluator``: the config of an evaluator, a list of configs, or a dict of
            configs by any key, which overrides can address (``val_evaluator.knn.k=10``).
        bank: Overrides of the data set of ``dataloader`` that define the bank, the labeled images from which predictions are
            drawn; usually ``data_root``.
        bank_dtype: ``'fp32'``, ``'bf16'`` or ``'fp16'``, the dtype in which the bank is stored; by default the model's.
        bank_device: ``'cpu'`` stores the bank in host memory; by default it stays on the device.

    Raises:
        ConfigError: ``bank`` has keys that the data set does not accept.
        ValueError: The two sets have different classes, an evaluator has no type or cannot be used (``build_evaluator``), or
            ``bank_dtype`` or ``bank_device`` is unknown.
    """

    moved: ClassVar = {'dense_probe': "val_evaluator=dict(dense=dict(type='DenseProbe', ...))"}

    def __init__(
        self,
        runner,
        dataloader: dict,
        evaluator: dict | Sequence[dict],
        bank: Annotated[dict, ConfigOf('ImageDataset', like='dataloader.dataset')],
        bank_dtype: str | None = None,
        bank_device: str | None = None,
    ) -> None:
        super().__init__(runner, dataloader)
        self.keep = BankForm(bank_dtype, bank_device)
        bank_dataloader = {**dataloader, 'dataset': {**dataloader['dataset'], **bank}}
        check_config({'bank_dataloader': bank_dataloader})
        bank_dataloader['dataset'] = listed_alike(bank_dataloader['dataset'])
        self.bank_dataloader = outlive_signals(Runner.build_dataloader(bank_dataloader, seed=runner.seed))
        self.evaluators = {
            key: build_evaluator(each, 'val_evaluator' if each is evaluator else f'val_evaluator.{key}')
            for key, each in evaluator_configs(evaluator).items()
        }
        known: Any = self.bank_dataloader.dataset
        asked = self.dataloader.dataset
        if known.metainfo != asked.metainfo:
            raise ValueError(
                f'{known.data_root} and {asked.data_root} have different classes: their labels are not comparable'
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
        shards = cache(
            lambda: (extract_shard(model, self.bank_dataloader, keep=self.keep), extract_shard(model, self.dataloader))
        )
        gathered = cache(lambda: [tensor for shard in shards() for tensor in shard.full()])
        metrics: dict[str, float] = {}
        for key, evaluator in self.evaluators.items():
            if hasattr(evaluator, 'of_model'):
                found = evaluator.of_model(model)
            elif hasattr(evaluator, 'of_shards'):
                found = evaluator.of_shards(*shards())
            else:
                found = evaluator(*gathered())
            numbers = named_numbers(evaluator, found)
            metrics |= {f'{key}/{name}' if name in metrics else name: value for name, value in numbers.items()}
        return metrics


def evaluator_configs(evaluator: Mapping | Sequence[Mapping]) -> dict[str, Mapping]:
    """The configs in a ``val_evaluator`` by key; the keys of a list are numbers.

    Raises:
        ValueError: There is none, or one has no type.
    """
    if isinstance(evaluator, Mapping) and 'type' in evaluator:
        evaluator = [evaluator]
    keyed = evaluator if isinstance(evaluator, Mapping) else dict(enumerate(evaluator))
    configs = {str(key): each for key, each in keyed.items() if each is not None}  # an override may remove one
    untyped = [key for key, each in configs.items() if not isinstance(each, Mapping) or 'type' not in each]
    if untyped or not configs:
        raise ValueError(
            f'val_evaluator={evaluator}: set a dict with a type, or a list or dict of these, as in dict(knn=dict(type='
            "'WeightedKNN', k=20))"
        )
    return configs
