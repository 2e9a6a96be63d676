"""Sampler and collate function of the loaders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmengine.dataset import DefaultSampler
from torch.utils.data import default_collate

from mmadclr.datasets.image_dataset import SampleKey
from mmadclr.registry import DATA_SAMPLERS, FUNCTIONS


@DATA_SAMPLERS.register_module()
class EpochSampler(DefaultSampler):
    """mmengine's sampler with keys ``(seed, epoch, index)``: persistent workers, too, learn which epoch a sample is for.

    The seed is the runner's, so it moves order and augmentation alike.
    """

    def __iter__(self) -> Iterator[SampleKey]:
        return (SampleKey(self.seed, self.epoch, index) for index in super().__iter__())


@FUNCTIONS.register_module()
def collate_samples(samples: Sequence[dict]) -> dict:
    """Stacks tensors and numbers; gathers the lists of ``unreadable`` files into one."""
    unreadable = [message for sample in samples for message in sample['unreadable']]
    stacked = default_collate([{k: v for k, v in sample.items() if k != 'unreadable'} for sample in samples])
    return {**stacked, 'unreadable': unreadable}
