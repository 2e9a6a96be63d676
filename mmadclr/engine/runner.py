"""mmengine's runner with what self-distillation needs on top: honest batch arithmetic, strict loading, gloo on CPU."""

from __future__ import annotations

import os

import torch
from mmengine import runner as mmengine_runner
from mmengine.dist import get_world_size, is_distributed
from mmengine.model import is_model_wrapper

from mmadclr.checkpoint.loading import check_state_dict
from mmadclr.registry import RUNNERS


@RUNNERS.register_module()
class Runner(mmengine_runner.Runner):
    """Differs from ``mmengine.runner.Runner`` in four places, each a trap we have seen users fall into.

    * ``auto_scale_lr`` counts accumulated batches, and the log spells the product out.
    * A batch that the data set cannot fill is an error, not a run of zero iterations.
    * A checkpoint must fit the model; mmengine would load what fits and warn.
    * Distributed runs without a GPU use gloo.
    """

    def setup_env(self, env_cfg: dict) -> None:
        if self.launcher == 'pytorch' and not torch.cuda.is_available() and not is_distributed():
            torch.distributed.init_process_group('gloo')
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg, model):
        if not is_distributed() or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        settings = dict(type='MMDistributedDataParallel', broadcast_buffers=False) | dict(model_wrapper_cfg or {})
        if not torch.cuda.is_available():
            settings['device_ids'] = None  # modules on the CPU take none
        return super().wrap_model(settings, model)

    def build_train_loop(self, loop):
        loop = super().build_train_loop(loop)
        loader = loop.dataloader
        if len(loader) == 0:
            raise ValueError(
                f'a batch of {loader.batch_size} x {get_world_size()} processes is more than the {len(loader.dataset)} '
                f'images of {loader.dataset.data_root}: lower train_dataloader.batch_size'
            )
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

    def load_checkpoint(self, filename, map_location='cpu', strict=True, revise_keys=((r'^module\.', ''),)):
        if not os.path.isfile(filename):
            raise FileNotFoundError(f'checkpoint {filename} does not exist')
        if strict:
            model = self.model.module if is_model_wrapper(self.model) else self.model
            check_state_dict(model, filename)
        return super().load_checkpoint(filename, map_location, strict, list(revise_keys))
