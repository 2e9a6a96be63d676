"""Evaluation of frozen features inside mmengine's runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, ClassVar

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
    """Extracts features of a bank and of the evaluation images, and hands them to the evaluators.

    Serves as validation during pretraining (``val_cfg``) and as the test of a checkpoint.

    An evaluator is a class of the metric registry, and returns named numbers. It has one of these:

    * ``of_shards(bank, features)``: gets what this process holds of both (``FeatureShard``); nothing is gathered.
    * ``of_model(model)``: gets the model and reads data of its own, as ``DenseProbe`` does.
    * ``__call__(bank, bank_labels, features, labels)``: gets the features (N, D) and labels (N,) of all processes.

    Where two return the same name, that of the second gets its key in front (``dense2/patch_knn_miou``).

    Args:
        runner, dataloader: Filled in by the runner.
        evaluator: Filled in by the runner from ``val_evaluator``: the config of an evaluator, a list of them, or a dict of
            them by keys of one's own, through which overrides reach them (``val_evaluator.knn.k=10``).
        bank: What the bank, the labeled images that predictions are drawn from, differs in from the data set of
            ``dataloader``: usually ``data_root``.
        bank_dtype: ``'fp32'``, ``'bf16'`` or ``'fp16'``, in which the features of the bank are kept; by default as the model
            gives them.
        bank_device: ``'cpu'`` keeps them in the memory of the host; by default they stay on the device.

    Raises:
        ConfigError: ``bank`` has keys the data set does not know.
        ValueError: The two sets hold different classes, an evaluator has no type or is none (``build_evaluator``), or an
            unknown ``bank_dtype`` or ``bank_device``.
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
        shards = cache(
            lambda: (extract_shard(model, self.bank_dataloader, keep=self.keep), extract_shard(model, self.dataloader))
        )
        gathered = cache(lambda: [tensor for shard in shards() for tensor in shard.whole()])
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
    """The configs in a ``val_evaluator`` by key, which in a list is the number.

    Raises:
        ValueError: There is none, or one has no type; None removes one.
    """
    if isinstance(evaluator, Mapping):
        configs = (
            {'0': evaluator} if 'type' in evaluator else {key: each for key, each in evaluator.items() if each is not None}
        )
    else:
        configs = {str(number): each for number, each in enumerate(evaluator)}
    untyped = [key for key, each in configs.items() if not isinstance(each, Mapping) or 'type' not in each]
    if untyped or not configs:
        raise ValueError(
            f'val_evaluator={evaluator}: give a dict with a type, or a list or a dict of such, as in dict(knn=dict(type='
            "'WeightedKNN', k=20))"
        )
    return configs
