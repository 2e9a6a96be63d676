"""mmengine's runner with what self-distillation needs on top: honest batch arithmetic, strict loading, gloo on CPU."""

from __future__ import annotations

import torch
from mmengine import runner as mmengine_runner
from mmengine.dist import get_world_size, is_distributed
from mmengine.model import is_model_wrapper
from torch.utils.data import DataLoader

from mmadclr.checkpoint.loading import architecture, check_state_dict
from mmadclr.models.wrappers import unwrapped
from mmadclr.registry import RUNNERS


@RUNNERS.register_module()
class Runner(mmengine_runner.Runner):
    """Differs from ``mmengine.runner.Runner`` where users fall into traps.

    * ``auto_scale_lr`` counts accumulated batches, and the log spells the product out.
    * A batch that the data set cannot fill, or no batch at all, is an error.
    * A checkpoint must fit the model; mmengine would load what fits and warn.
    * A run resumed with another number of batches per epoch goes on at the right place of its schedules.
    * Distributed runs without a GPU use gloo (under ``torchrun``).
    """

    def setup_env(self, env_cfg: dict) -> None:
        if self.launcher == 'pytorch' and not torch.cuda.is_available() and not is_distributed():
            torch.distributed.init_process_group('gloo')
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg, model):
        if not is_distributed() or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        settings = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=self.cfg.get('find_unused_parameters', False),
        )
        if not torch.cuda.is_available():
            settings['device_ids'] = None  # modules on the CPU take none
        return super().wrap_model(settings | dict(model_wrapper_cfg or {}), model)

    @staticmethod
    def build_dataloader(dataloader, *args, **kwargs) -> DataLoader:
        if isinstance(dataloader, DataLoader):
            return dataloader
        if dataloader.get('batch_size', 1) < 1:
            raise ValueError(f'batch_size={dataloader["batch_size"]}: a data loader needs batches of 1 or more images')
        if dataloader.get('num_workers', 0) == 0:
            dataloader = {**dataloader, 'persistent_workers': False}  # without workers there are none to keep
        return mmengine_runner.Runner.build_dataloader(dataloader, *args, **kwargs)

    def build_train_loop(self, loop):
        loop = super().build_train_loop(loop)
        loader = loop.dataloader
        if len(loader) == 0:
            raise ValueError(
                f'a batch of {loader.batch_size} x {get_world_size()} processes is more than the {len(loader.dataset)} '
                f'images of {loader.dataset.data_root}: lower train_dataloader.batch_size'
            )
        if loop.max_iters < 1:
            raise ValueError(f'train_cfg.max_epochs={loop.max_epochs}: there is nothing to train')
        return loop

    def scale_lr(self, optim_wrapper, auto_scale_lr=None) -> None:
        counts = getattr(optim_wrapper, 'accumulative_counts', 1)
        batch_size = self.train_dataloader.batch_size
        if counts > self.max_iters:
            raise ValueError(f'accumulative_counts={counts}: the whole run has only {self.max_iters} batches')
        if not (auto_scale_lr or {}).get('enable', False):
            return
        total, base = batch_size * self.world_size * counts, auto_scale_lr['base_batch_size']
        for group in optim_wrapper.optimizer.param_groups:
            configured, group['lr'] = group['lr'], group['lr'] * total / base
        self.logger.info(
            f'learning rate: {configured:g} per {base} images; total batch {batch_size} images x {self.world_size} '
            f'processes x {counts} accumulated = {total}, so the peak is {configured * total / base:g}'
        )

    def load_checkpoint(self, filename, map_location='cpu', strict=True, **kwargs):
        if strict:
            check_state_dict(unwrapped(self.model), filename)
        return super().load_checkpoint(filename, map_location, strict, **kwargs)

    def save_checkpoint(self, *args, meta=None, **kwargs) -> None:
        super().save_checkpoint(*args, meta={**(meta or {}), 'architecture': architecture(unwrapped(self.model))}, **kwargs)

    def resume(self, *args, **kwargs) -> None:
        super().resume(*args, **kwargs)
        expected = self.epoch * len(self.train_dataloader)
        if self.iter != expected:
            self.logger.warning(
                f'the checkpoint was written at iteration {self.iter}, but {self.epoch} epochs of this run are {expected} '
                'iterations (another batch size, number of processes or data set): the schedules go on from there'
            )
            self.train_loop._iter = expected
