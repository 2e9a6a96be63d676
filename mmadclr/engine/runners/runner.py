"""mmengine's runner with what self-distillation needs on top: honest batch arithmetic, strict loading, gloo on CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

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
from mmadclr.checkpoint.loading import architecture, check_state_dict, describe_backbone, method_name
from mmadclr.checkpoint.reading import read_checkpoint
from mmadclr.checkpoint.run_files import newest_good_checkpoint, read_state, write_checkpoint
from mmadclr.config.components import Place
from mmadclr.config.findings import Finding, report
from mmadclr.config.sense import check_sense
from mmadclr.console.libraries import FILE_ONLY
from mmadclr.console.runner import ConsoleRunner, quietly
from mmadclr.datasets.checks import check_dataset
from mmadclr.datasets.coco_labels import by_name
from mmadclr.datasets.listing import listed_alike, share_in
from mmadclr.datasets.loader_workers import outlive_signals
from mmadclr.datasets.samplers import EpochSampler, check_workers, warn_of_scattered_reads
from mmadclr.distributed.shards import cut_optimizer_state, whole_states
from mmadclr.distributed.wrappers import unwrapped
from mmadclr.engine.hooks.checkpoint_hook import SafeCheckpointHook
from mmadclr.engine.runners.batch_findings import UNTYPED_PARTS, batch_findings, run_conflicts
from mmadclr.engine.runners.compilation import compile_blocks
from mmadclr.engine.runners.epoch_loop import ResumableEpochLoop
from mmadclr.engine.runners.history import bound_histories
from mmadclr.engine.runners.run_state import history_of, plain_history
from mmadclr.engine.runners.sharding import check_sharding, shard_model
from mmadclr.models.backbones.query_block import has_fused_attention
from mmadclr.models.selfsup import SelfDistillation
from mmadclr.precision import PRECISIONS, resolve_precision
from mmadclr.registry import RUNNERS, SCOPE
from mmadclr.reliability.loader_guard import DevicePrefetcher, check_shared_memory, explained_worker_deaths
from mmadclr.reliability.work_dir_lock import sole_use


@RUNNERS.register_module()
class Runner(ConsoleRunner):
    """Differs from ``mmengine.runner.Runner`` where users fall into traps.

    * ``auto_scale_lr`` counts accumulated batches, and the log spells the product out.
    * A batch that the data set cannot fill, or no batch at all, is an error.
    * A checkpoint must fit the model; mmengine would load what fits and warn.
    * ``compile`` compiles transformer blocks one by one, or whole backbones; by default on a GPU.
    * A run resumed with another number of batches per epoch goes on at the right place of its schedules.
    * Settings that exclude each other, missing paths and mistakes in annotated data are found before training starts.
    * A run goes on after any iteration, from a checkpoint that is whole, and has its work dir for itself.
    * Distributed runs without a GPU use gloo (under ``torchrun``).
    * ``sharding`` cuts the parameters of a pretraining method into shards over the processes.
    * Histories of logged scalars take bounded room and time.
    """

    config_parts: ClassVar = UNTYPED_PARTS
    sharded = False
    _position: dict | None = None  # in the run, of the checkpoint it was resumed from

    @classmethod
    def find_conflicts(cls, place: Place) -> Iterator[Finding]:
        """Settings at the top: how to compile, and checkpoints that do not exist."""
        return run_conflicts(place)

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
        """Names the part and the argument where a class passes on what it declared nothing of."""
        try:
            return super().build_model(model)
        except TypeError as error:
            if 'unexpected keyword argument' not in str(error):
                raise
            raise ValueError(f'the config of the model has a key that nothing takes: {error}') from error

    def wrap_model(self, model_wrapper_cfg, model):
        if self.cfg.get('sharding') is not None:
            return self.shard_model(self.cfg.sharding, model_wrapper_cfg, model)
        if not is_distributed() or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        if not torch.cuda.is_available() and any(isinstance(m, torch.nn.SyncBatchNorm) for m in model.modules()):
            self.logger.warning('SyncBN becomes BN, with the statistics of one process: torch has SyncBN on GPUs only')
            model = revert_sync_batchnorm(model)
        return super().wrap_model(self.ddp_settings(model_wrapper_cfg or {}), model)

    def ddp_settings(self, overrides: dict) -> dict:
        """Arguments of the wrapper for data-parallel training."""
        settings = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=self.cfg.get('find_unused_parameters', False),
            gradient_as_bucket_view=True,
        )
        if not torch.cuda.is_available():
            settings['device_ids'] = None  # modules on the CPU take none
        settings |= overrides
        # Where every backward pass is the same, DDP plans once for all. Not with accumulated batches: the first one, from
        # which it makes the plan, must not be under `no_sync` (torch 2.11 fails on an internal assertion).
        accumulates = (self.cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1) != 1
        pretraining = self.default_scope.scope_name == SCOPE
        settings.setdefault('static_graph', pretraining and not accumulates and not settings['find_unused_parameters'])
        if settings['static_graph'] and accumulates:
            raise ValueError('static_graph=True of model_wrapper_cfg does not work with accumulative_counts: remove either')
        return settings

    def shard_model(self, sharding: str, model_wrapper_cfg, model: torch.nn.Module) -> torch.nn.Module:
        """The model in shards; gradients of accumulated batches are exchanged batch by batch, which keeps them sharded."""
        check_sharding(sharding)
        if model_wrapper_cfg is not None:
            raise ValueError(f'sharding={sharding!r} and model_wrapper_cfg exclude each other: remove one of them')
        if not is_distributed():
            self.logger.warning(f'sharding={sharding!r} has no effect on a single process: parameters stay whole')
            return super().wrap_model(None, model)
        model = model.to(get_device())
        shard_model(model, sharding)
        self.sharded = True
        self.logger.info(f'sharding={sharding!r}: parameters are cut into {get_world_size()} shards')
        return model

    def _init_model_weights(self) -> None:
        if not self.sharded:  # else drawn before they were cut
            super()._init_model_weights()

    def build_optim_wrapper(self, optim_wrapper):
        model = unwrapped(self.model)
        if isinstance(model, SelfDistillation) and isinstance(optim_wrapper, Mapping):
            optim_wrapper = {'constructor': 'SelfDistillationOptimConstructor', **optim_wrapper}
        built = super().build_optim_wrapper(optim_wrapper)
        if isinstance(model, SelfDistillation) and getattr(built, 'method', None) is not model:
            raise ValueError(
                f'optim_wrapper: the step of {type(built).__name__} does not move the teacher of {type(model).__name__}; '
                'remove type and constructor, so that SelfDistillationOptimWrapper is built'
            )
        if self.sharded and built is not optim_wrapper:
            built.optimizer.register_load_state_dict_pre_hook(cut_optimizer_state)
        return built

    @staticmethod
    def build_dataloader(dataloader, *args, **kwargs) -> DataLoader:
        if isinstance(dataloader, DataLoader):
            return outlive_signals(dataloader)
        if dataloader.get('batch_size', 1) < 1:
            raise ValueError(f'batch_size={dataloader["batch_size"]}: a data loader needs batches of 1 or more images')
        if dataloader.get('num_workers', 0) == 0:
            dataloader = {**dataloader, 'persistent_workers': False}  # without workers there are none to keep
        sampler = dataloader.get('sampler')
        if isinstance(sampler, dict) and str(sampler.get('type')).endswith('ShardSampler'):  # its order depends on the batch
            dataloader = {**dataloader, 'sampler': {'batch_size': dataloader.get('batch_size', 1), **sampler}}
            check_workers(dataloader)
        dataloader = {**dataloader, 'dataset': listed_alike(dataloader.get('dataset'))}
        loader = mmengine_runner.Runner.build_dataloader(dataloader, *args, **kwargs)
        if isinstance(loader.sampler, EpochSampler):
            # Samples depend on their keys alone. With a generator of its own, starting workers draws nothing from that of
            # training, which a resumed run does at other times than one that keeps its workers.
            loader.generator = torch.Generator()
        warn_of_scattered_reads(loader)
        return outlive_signals(loader)

    @quietly
    def train(self):
        check_sense(self.cfg)
        self.check_data('train', 'val')
        self.check_loss_record()
        if isinstance(unwrapped(self.model), SelfDistillation):
            self.check_attention()
        with sole_use(self.work_dir), explained_worker_deaths(lambda: self.iter, self.work_dir, self.stop_signal):
            try:
                return super().train()
            finally:
                self.call_hook('leave_training')  # after_train is for runs that come to their end

    def stop_signal(self) -> str | None:
        """The signal that has told the run to stop, if one has."""
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
        """Says so if a pretraining config of one's own keeps mmengine's hook for losses."""
        if self.default_scope.scope_name == SCOPE and any(type(hook) is RuntimeInfoHook for hook in self.hooks):
            self.logger.warning(
                'RuntimeInfoHook waits for the device in every iteration, and nothing looks for losses that are not finite: '
                "set default_hooks.runtime_info=dict(type='LossRecordHook')"
            )

    def check_attention(self) -> None:
        """Says so if attention takes torch's slow path on this GPU."""
        backbone = unwrapped(self.model).student['backbone']
        weight, num_heads = backbone.patch_embed.proj.weight, backbone.blocks[0].attn.num_heads
        precision = PRECISIONS[resolve_precision(self.cfg.optim_wrapper.get('precision', 'auto'))] or weight.dtype
        if not has_fused_attention(backbone.embed_dim // num_heads, weight.device, precision):
            self.logger.warning(
                f'attention: no fused kernel of torch takes {precision} with {backbone.embed_dim} channels in {num_heads} '
                'heads on this GPU, so all scores are written out, which is slow and takes memory'
            )

    def check_data(self, *parts: str) -> None:
        """Looks for mistakes in annotated data before time is spent; ``dataset_check=None`` in the config skips it.

        Labels of COCO files follow the names of the class list from here on, checked or not.
        """
        by_name()
        settings = self.cfg.get('dataset_check', dict(num_items=16))
        # Pretraining accounts for unreadable images as it goes.
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
                f'a batch of {loader.batch_sampler.batch_size} x {get_world_size()} processes is more than the '
                f'{len(loader.dataset)} images of {getattr(loader.dataset, "data_root", "the data set")}: lower '
                'train_dataloader.batch_size'
            )
        if loop.max_iters < 1:
            key = 'max_epochs' if isinstance(loop, EpochBasedTrainLoop) else 'max_iters'
            raise ValueError(f'train_cfg.{key}={getattr(loop, key)}: there is nothing to train')
        check_shared_memory(loader)
        if self.default_scope.scope_name == SCOPE:
            loop.dataloader = DevicePrefetcher(loader, get_device())
        return loop

    def scale_lr(self, optim_wrapper, auto_scale_lr=None) -> None:
        counts = getattr(optim_wrapper, 'accumulative_counts', 1)
        batch_size = self.train_dataloader.batch_sampler.batch_size
        if counts > self.max_iters:
            raise ValueError(f'accumulative_counts={counts}: the whole run has only {self.max_iters} batches')
        if self.default_scope.scope_name == SCOPE:
            images = len(self.train_dataloader.dataset)
            report(batch_findings(images, batch_size, self.world_size, counts, self.cfg))
        if not (auto_scale_lr or {}).get('enable', False):
            return
        total, base = batch_size * self.world_size * counts, auto_scale_lr['base_batch_size']
        groups = optim_wrapper.optimizer.param_groups
        configured = max(group['lr'] for group in groups)  # under layer-wise decay, that of the top
        for group in groups:
            group['lr'] = group['lr'] * total / base
        if optim_wrapper.base_param_settings:
            optim_wrapper.base_param_settings['lr'] *= total / base  # what the log calls base_lr
        self.logger.info(
            f'learning rate: {configured:g} per {base} images; total batch {batch_size} images x {self.world_size} '
            f'processes x {counts} accumulated = {total}, so the peak is {configured * total / base:g}',
            extra=FILE_ONLY,
        )

    def load_checkpoint(self, filename, map_location='cpu', strict=True, **kwargs) -> dict:
        """Strict; nothing in a file is executed. A file to go on from is read once for all processes of a machine."""
        checkpoint = read_state(filename, get_device()) if self._resume else read_checkpoint(filename)
        if strict:
            check_state_dict(unwrapped(self.model), filename, checkpoint)
        if self._resume:
            checkpoint['message_hub'] = history_of(checkpoint['message_hub'])
            self._position = checkpoint.get('position')
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        unwrapped(self.model).load_state_dict(checkpoint.get('state_dict', checkpoint), strict)
        self._has_loaded = True
        self.logger.info(f'loaded {filename}', extra=FILE_ONLY)
        return checkpoint

    def _maybe_compile(self, target: str) -> None:
        """``compile`` in the config compiles transformer blocks, not the whole step with its hooks and wrappers."""
        if self.default_scope.scope_name != SCOPE:
            super()._maybe_compile(target)
        elif compile_blocks(unwrapped(self.model), self.cfg.get('compile', 'auto')):
            self.logger.info('transformer blocks are compiled: the first iterations take minutes')

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
        """As mmengine's, for its hooks; the file is written whole or not at all."""
        if file_client_args is not None or backend_args is not None:
            raise ValueError('checkpoints are written to local paths: remove file_client_args and backend_args of the hook')
        content = self.checkpoint_content(self.iter if by_epoch else self.iter + 1)
        content['meta'] |= {**(meta or {}), 'epoch': self.epoch + by_epoch}
        if not save_optimizer:
            del content['optimizer']
        if not save_param_scheduler:
            content.pop('param_schedulers', None)
        if is_main_process():
            write_checkpoint(content, Path(out_dir) / filename)

    def checkpoint_content(self, done: int) -> dict:
        """State of the run after ``done`` iterations, in plain types; to be called on all processes.

        Tensors are those of model and optimizer themselves, not copies.
        """
        self.call_hook('flush_losses')  # a state behind a loss that is not finite is not saved
        with whole_states(self.model, self.optim_wrapper.optimizer) if self.sharded else nullcontext():
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
        model = unwrapped(self.model)
        meta = dict(
            iter=done,
            cfg=self.cfg.pretty_text,
            seed=self.seed,
            experiment_name=self.experiment_name,
            time=time.strftime('%Y%m%d_%H%M%S'),
            mmengine_version=mmengine.__version__,
            mmadclr_version=__version__,
            architecture=architecture(model),
        )
        if hasattr(self.train_dataloader.dataset, 'metainfo'):
            meta['dataset_meta'] = self.train_dataloader.dataset.metainfo
        if isinstance(model, SelfDistillation):
            meta |= {'method': method_name(model), 'backbone': describe_backbone(model)}
        return meta

    def load_or_resume(self) -> None:
        """Without a path, resumes from the newest checkpoint of the work dir that is whole; without one, starts anew."""
        if self._resume and self._load_from is None and not self._has_loaded:
            found = [None]
            if is_main_process():
                found = [newest_good_checkpoint(self.work_dir, self.logger.warning)]
            broadcast_object_list(found)
            if found[0] is None:
                self.logger.warning(f'--resume: there is no checkpoint in {self.work_dir} yet, so the run starts anew')
                return
            self._load_from = str(found[0])
        super().load_or_resume()

    def resume(self, filename, *args, **kwargs) -> None:
        self._resume = True
        if self.sharded:
            kwargs.setdefault('map_location', 'cpu')  # the file's tensors are whole, as no device may be able to hold them
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
        """For checkpoints without a position, written at the end of an epoch."""
        expected = loop.epoch * len(self.train_dataloader)
        if loop.iter != expected:
            self.logger.warning(
                f'the checkpoint was written at iteration {loop.iter}, but {loop.epoch} epochs of this run are {expected} '
                'iterations (another batch size, number of processes or data set): the schedules go on from there'
            )
            loop._iter = expected
