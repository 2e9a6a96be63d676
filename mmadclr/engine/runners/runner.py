"""mmengine's runner adapted to self-distillation: correct batch arithmetic, strict loading, gloo on CPU."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import mmengine
import torch
from mmengine import runner as mmengine_runner
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, get_world_size, is_distributed, is_main_process
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import MessageHub
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import DataLoader

from mmadclr import __version__
from mmadclr.checkpoint.loading import check_state_dict, described, restore_origin
from mmadclr.checkpoint.reading import read_checkpoint
from mmadclr.checkpoint.run_files import newest_good_checkpoint, read_state, write_checkpoint
from mmadclr.checkpoint.run_state import history_of, plain_history
from mmadclr.checkpoint.scalar_history import bound_histories
from mmadclr.config.components import Place
from mmadclr.config.default_hooks import default_hooks
from mmadclr.config.findings import Finding, report
from mmadclr.config.sense import check_sense
from mmadclr.console.libraries import FILE_ONLY
from mmadclr.console.runner import ConsoleRunner, quietly
from mmadclr.datasets.checks import check_dataset
from mmadclr.datasets.coco_labels import by_name
from mmadclr.datasets.listing import share_in
from mmadclr.datasets.loader_workers import outlive_signals
from mmadclr.datasets.run_loaders import loader_settings, separate_generator, warn_of_scattered_reads
from mmadclr.distributed.shards import cut_optimizer_state, full_states
from mmadclr.distributed.wrappers import ddp_settings, unwrapped
from mmadclr.engine.hooks.checkpoint_hook import SafeCheckpointHook
from mmadclr.engine.runners.batch_findings import UNTYPED_PARTS, batch_findings, run_conflicts
from mmadclr.engine.runners.epoch_loop import ResumableEpochLoop
from mmadclr.hub.starting import complete_start
from mmadclr.models.backbones.query_block import slow_attention
from mmadclr.models.compilation import OWN_OPTIONS, compile_blocks
from mmadclr.models.selfsup import SelfDistillation
from mmadclr.models.sharding import check_sharding, shard_model
from mmadclr.precision import PRECISIONS, resolve_precision
from mmadclr.registry import RUNNERS, SCOPE
from mmadclr.reliability.loader_guard import DevicePrefetcher, check_shared_memory, explained_worker_deaths
from mmadclr.reliability.work_dir_lock import sole_use


@RUNNERS.register_module()
class Runner(ConsoleRunner):
    """Fixes pitfalls of ``mmengine.runner.Runner``.

    * ``auto_scale_lr`` counts accumulated batches, and logs the computation.
    * A batch larger than the data set, or no batch at all, is an error.
    * A checkpoint must match the model; mmengine loads what matches and warns.
    * ``compile`` compiles transformer blocks one by one, or full backbones; by default on a GPU.
    * A run resumed with a different number of batches per epoch continues at the right position of its schedules.
    * Conflicting settings, missing paths and errors in annotations are reported before training starts.
    * A run can resume from any iteration, ignores incomplete checkpoints, and locks its work dir.
    * Distributed runs without a GPU use gloo (under ``torchrun``).
    * ``sharding`` shards the parameters of a pretraining method over processes.
    * Histories of logged scalars use bounded memory and time.
    """

    config_parts: ClassVar = UNTYPED_PARTS
    config_keys: ClassVar = {'compile': OWN_OPTIONS}
    sharded = False
    _load_from: str | None
    _position: dict | None = None  # position stored in the checkpoint that the run resumes from

    @classmethod
    def find_conflicts(cls, place: Place) -> Iterator[Finding]:
        """Conflicts in top-level settings: compilation, and missing checkpoints."""
        return run_conflicts(place)

    @classmethod
    def from_cfg(cls, cfg: Mapping) -> Runner:
        """As mmengine's, with the hooks that every pretraining run has, and what a file of initial weights says."""
        complete: Any = complete_start(copy.deepcopy(cfg))
        complete['default_hooks'] = default_hooks(cfg)
        return super().from_cfg(complete)

    def register_default_hooks(self, hooks: Mapping | None = None) -> None:
        """As mmengine's, where None removes any hook; mmengine takes it for those that it has itself."""
        own = {'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'}
        super().register_default_hooks({n: hook for n, hook in (hooks or {}).items() if n in own or hook is not None})

    def setup_env(self, env_cfg: dict) -> None:
        if self.launcher == 'pytorch' and not torch.cuda.is_available() and not is_distributed():
            torch.distributed.init_process_group('gloo')
        super().setup_env(env_cfg)
        share_in(self.work_dir)

    def build_message_hub(self, message_hub: dict | None = None) -> MessageHub:
        hub = super().build_message_hub(message_hub)
        bound_histories(hub)
        return hub

    def build_model(self, model) -> torch.nn.Module:
        """Reports config keys that a model class forwards but no class accepts."""
        try:
            return super().build_model(model)
        except TypeError as error:
            if 'unexpected keyword argument' not in str(error):
                raise
            raise ValueError(f'the model config has an unknown key: {error}') from error

    def wrap_model(self, model_wrapper_cfg, model):
        if self.cfg.get('sharding') is not None:
            return self.shard_model(self.cfg.sharding, model_wrapper_cfg, model)
        if not is_distributed() or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        if not torch.cuda.is_available() and any(isinstance(m, torch.nn.SyncBatchNorm) for m in model.modules()):
            self.logger.warning('SyncBN is replaced by BN with per-process statistics: torch supports SyncBN only on GPUs')
            model = revert_sync_batchnorm(model)
        pretraining = self.default_scope.scope_name == SCOPE
        return super().wrap_model(ddp_settings(self.cfg, model_wrapper_cfg or {}, pretraining), model)

    def shard_model(self, sharding: str, model_wrapper_cfg, model: torch.nn.Module) -> torch.nn.Module:
        """The sharded model; gradients of accumulated batches are reduced after every batch, which keeps them sharded."""
        check_sharding(sharding)
        if model_wrapper_cfg is not None:
            raise ValueError(f'sharding={sharding!r} and model_wrapper_cfg cannot be combined: remove one of them')
        if not is_distributed():
            self.logger.warning(f'sharding={sharding!r} has no effect with a single process: parameters are not sharded')
            return super().wrap_model(None, model)
        model = model.to(get_device())
        shard_model(model, sharding)
        self.sharded = True
        self.logger.info(f'sharding={sharding!r}: parameters are split into {get_world_size()} shards')
        return model

    def _init_model_weights(self) -> None:
        if not self.sharded:  # sharded models were initialized before sharding
            super()._init_model_weights()

    def build_optim_wrapper(self, optim_wrapper):
        model = unwrapped(self.model)
        if isinstance(model, SelfDistillation) and isinstance(optim_wrapper, Mapping):
            optim_wrapper = {'constructor': 'SelfDistillationOptimConstructor', **optim_wrapper}
        built = super().build_optim_wrapper(optim_wrapper)
        if isinstance(model, SelfDistillation) and getattr(built, 'method', None) is not model:
            raise ValueError(
                f'optim_wrapper: {type(built).__name__} does not update the teacher of {type(model).__name__}; '
                'remove type and constructor, so that SelfDistillationOptimWrapper is used'
            )
        if self.sharded and built is not optim_wrapper:
            built.optimizer.register_load_state_dict_pre_hook(cut_optimizer_state)
        return built

    @staticmethod
    def build_dataloader(dataloader, *args, **kwargs) -> DataLoader:
        if isinstance(dataloader, DataLoader):
            return outlive_signals(dataloader)
        loader = mmengine_runner.Runner.build_dataloader(loader_settings(dataloader), *args, **kwargs)
        separate_generator(loader)
        warn_of_scattered_reads(loader)
        return outlive_signals(loader)

    @quietly
    def train(self):
        check_sense(self.cfg)
        self.check_data('train', 'val')
        self.check_loss_record()
        if isinstance(unwrapped(self.model), SelfDistillation):
            self.check_attention()
        with sole_use(self.work_dir):
            try:
                # Inside: the hooks that follow may catch what torch says of a dead worker, which it does only once.
                with explained_worker_deaths(lambda: self.iter, self.work_dir, self.stop_signal):
                    return super().train()
            finally:
                self.call_hook('leave_training')  # after_train is called only if training completes

    def stop_signal(self) -> str | None:
        """The signal that requested a stop, if any."""
        return next((hook.stop.received for hook in self.hooks if isinstance(hook, SafeCheckpointHook)), None)

    @quietly
    def val(self):
        self.check_data('val')
        with explained_worker_deaths(lambda: self.iter, self.work_dir):
            return super().val()

    @quietly
    def test(self):
        self.check_data('test')
        with explained_worker_deaths(lambda: self.iter, self.work_dir):
            return super().test()

    def check_loss_record(self) -> None:
        """Warns if a custom pretraining config keeps mmengine's hook for losses."""
        if self.default_scope.scope_name == SCOPE and any(type(hook) is RuntimeInfoHook for hook in self.hooks):
            self.logger.warning(
                'RuntimeInfoHook synchronizes with the device in every iteration and does not detect non-finite losses: '
                "set default_hooks.runtime_info=dict(type='LossRecordHook')"
            )

    def check_attention(self) -> None:
        """Warns if attention has no fused kernel on this GPU."""
        backbone = unwrapped(self.model).student['backbone']
        dtype = PRECISIONS[resolve_precision(self.cfg.optim_wrapper.get('precision', 'auto'))]
        problem = slow_attention(backbone, dtype)
        if problem:
            self.logger.warning(problem)

    def check_data(self, *parts: str) -> None:
        """Checks annotated data for errors before training; ``dataset_check=None`` in the config disables it.

        From here on, labels of COCO files follow the names in the class list, checked or not.
        """
        by_name()
        settings = self.cfg.get('dataset_check', dict(num_items=16))
        # Pretraining reports unreadable images during the run.
        if settings is None or self.default_scope.scope_name == SCOPE:
            return
        for part in parts:
            loader = getattr(self, f'_{part}_dataloader')
            if isinstance(loader, dict):
                evaluator = getattr(self, f'_{part}_evaluator', None)
                uses = dict(evaluator=evaluator, model=self.cfg.get('model'))
                self.logger.info(check_dataset(loader['dataset'], **uses, **{'num_items': 16, **settings}))

    def build_train_loop(self, loop):
        loop = super().build_train_loop(loop)
        loader = loop.dataloader
        if len(loader) == 0:
            raise ValueError(
                f'a batch of {loader.batch_sampler.batch_size} images x {get_world_size()} processes is larger than '
                f'{getattr(loader.dataset, "data_root", "the data set")} ({len(loader.dataset)} images): lower '
                'train_dataloader.batch_size'
            )
        if loop.max_iters < 1:
            key = 'max_epochs' if isinstance(loop, EpochBasedTrainLoop) else 'max_iters'
            raise ValueError(f'train_cfg.{key}={getattr(loop, key)} must be at least 1')
        check_shared_memory(loader)
        if self.default_scope.scope_name == SCOPE:
            loop.dataloader = DevicePrefetcher(loader, get_device())
        return loop

    def scale_lr(self, optim_wrapper, auto_scale_lr=None) -> None:
        counts = getattr(optim_wrapper, 'accumulative_counts', 1)
        batch_size = self.train_dataloader.batch_sampler.batch_size
        if counts > self.max_iters:
            raise ValueError(f'accumulative_counts={counts} is more than the {self.max_iters} batches of the run: lower it')
        if self.default_scope.scope_name == SCOPE:
            images = len(self.train_dataloader.dataset)
            report(batch_findings(images, batch_size, self.world_size, counts, self.cfg))
        if not (auto_scale_lr or {}).get('enable', False):
            return
        total, base = batch_size * self.world_size * counts, auto_scale_lr['base_batch_size']
        groups = optim_wrapper.optimizer.param_groups
        configured = max(group['lr'] for group in groups)  # with layer-wise decay, that of the top
        for group in groups:
            group['lr'] = group['lr'] * total / base
        if optim_wrapper.base_param_settings:
            optim_wrapper.base_param_settings['lr'] *= total / base  # logged as base_lr
        self.logger.info(
            f'learning rate: {configured:g} per {base} images; total batch size {batch_size} images x {self.world_size} '
            f'processes x {counts} accumulated = {total}, so the peak is {configured * total / base:g}',
            extra=FILE_ONLY,
        )

    def load_checkpoint(self, filename, map_location='cpu', strict=True, **kwargs) -> dict:
        """Loads strictly, executing nothing in the file; when resuming, each machine reads it once for all its processes."""
        checkpoint = read_state(filename, get_device()) if self._resume else read_checkpoint(filename)
        if strict:
            check_state_dict(unwrapped(self.model), filename, checkpoint)
        if self._resume:
            checkpoint['message_hub'] = history_of(checkpoint['message_hub'])
            self._position = checkpoint.get('position')
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        unwrapped(self.model).load_state_dict(checkpoint.get('state_dict', checkpoint), strict)
        restore_origin(unwrapped(self.model), checkpoint.get('meta'))
        self._has_loaded = True
        self.logger.info(f'loaded {filename}', extra=FILE_ONLY)
        return checkpoint

    def _maybe_compile(self, target: str) -> None:
        """``compile`` in the config compiles transformer blocks, not the full step with its hooks and wrappers."""
        if self.default_scope.scope_name != SCOPE:
            super()._maybe_compile(target)
        elif compile_blocks(unwrapped(self.model), self.cfg.get('compile', 'auto')):
            self.logger.info('compiling transformer blocks: the first iterations take minutes')

    def save_checkpoint(
        self,
        out_dir,
        filename,
        file_client_args=None,
        save_optimizer=True,
        save_param_scheduler=True,
        meta=None,
        by_epoch=True,
        backend_args=None,
    ) -> None:
        """Interface of mmengine's hooks; the file is written atomically."""
        if file_client_args is not None or backend_args is not None:
            raise ValueError(
                'checkpoints are saved to local paths only: remove file_client_args and backend_args of the hook'
            )
        content = self.checkpoint_content(self.iter if by_epoch else self.iter + 1)
        content['meta'] |= {**(meta or {}), 'epoch': self.epoch + by_epoch}
        if not save_optimizer:
            del content['optimizer']
        if not save_param_scheduler:
            content.pop('param_schedulers', None)
        if is_main_process():
            write_checkpoint(content, Path(out_dir) / filename)

    def checkpoint_content(self, done: int) -> dict:
        """State of the run after ``done`` iterations, in plain types; collective call.

        Tensors are those of model and optimizer, not copies.
        """
        self.call_hook('flush_losses')  # raises rather than saving a non-finite state
        with full_states(self.model, self.optim_wrapper.optimizer) if self.sharded else nullcontext():
            content = {
                'meta': self.checkpoint_meta(done),
                'state_dict': unwrapped(self.model).state_dict(),
                'message_hub': plain_history(self.message_hub.state_dict()),
                'optimizer': self.optim_wrapper.state_dict(),
            }
        if isinstance(self.train_loop, ResumableEpochLoop):
            content['position'] = self.train_loop.position(done)
            content['meta']['epoch'] = content['position']['epoch']
        if self.param_schedulers:
            content['param_schedulers'] = [scheduler.state_dict() for scheduler in self.param_schedulers]
        self.call_hook('before_save_checkpoint', checkpoint=content)
        return content

    def checkpoint_meta(self, done: int) -> dict:
        return dict(
            iter=done,
            cfg=self.cfg.pretty_text,
            seed=self.seed,
            experiment_name=self.experiment_name,
            time=time.strftime('%Y%m%d_%H%M%S'),
            mmengine_version=mmengine.__version__,
            mmadclr_version=__version__,
            **described(unwrapped(self.model), self.train_dataloader.dataset),
        )

    def load_or_resume(self) -> None:
        """Without a path, resumes from the newest complete checkpoint in the work dir, or starts from scratch."""
        if self._resume and self._load_from is None and not self._has_loaded:
            found: list[Path | None] = [None]
            if is_main_process():
                found = [newest_good_checkpoint(self.work_dir, self.logger.warning)]
            broadcast_object_list(found)
            if found[0] is None:
                self.logger.warning(f'--resume: no checkpoint in {self.work_dir} yet, starting from scratch')
                return
            self._load_from = str(found[0])
        super().load_or_resume()

    def resume(self, filename, *args, **kwargs) -> None:
        self._resume = True
        if self.sharded:
            kwargs.setdefault('map_location', 'cpu')  # the file has full tensors, which may not fit on one device
        super().resume(filename, *args, **kwargs)
        loop = self.train_loop
        if isinstance(loop, ResumableEpochLoop) and self._position is not None:
            changed = loop.go_to(self._position)
            self.logger.info(f'resumed: the next is batch {loop.first_batch + 1} of epoch {loop.epoch + 1}', extra=FILE_ONLY)
            if changed is not None:
                self.logger.warning(changed)
        elif isinstance(loop, EpochBasedTrainLoop):
            self.go_to_epoch(loop)

    def go_to_epoch(self, loop: EpochBasedTrainLoop) -> None:
        """Resumes from a checkpoint without a position, saved at the end of an epoch."""
        expected = loop.epoch * len(self.train_dataloader)
        if loop.iter != expected:
            self.logger.warning(
                f'the checkpoint was saved at iteration {loop.iter}, but {loop.epoch} epochs of this run are {expected} '
                f'iterations (different batch size, number of processes or data set): continuing from iteration {expected}'
            )
            loop._iter = expected
