"""All schedules of self-distillation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.dist import is_distributed
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop

from mmadclr.config.components import Place
from mmadclr.config.findings import Finding
from mmadclr.distributed.wrappers import unwrapped
from mmadclr.models.losses import SelfDistillationLoss
from mmadclr.registry import HOOKS
from mmadclr.schedules import check_temperature, cosine_schedule, temperature_table


@HOOKS.register_module()
class DistillationScheduleHook(Hook):
    """Sets learning rate, weight decay, teacher momentum, teacher temperature and the frozen last layer.

    The first three follow cosines per optimizer step; temperature and freezing change per epoch, all as in
    facebookresearch/dino, ``main_dino.py``. The learning rate peaks at the optimizer's ``lr`` after ``auto_scale_lr``.
    Values depend on the step alone, so a resumed run continues them exactly.

    Args:
        warmup_epochs: Epochs (may be fractional) over which the learning rate rises from 0.
        min_lr: Final learning rate; absolute, not scaled with the batch size.
        weight_decay: Start and end values for the decayed parameter group.
        momentum: Start and end values of the teacher momentum.
        teacher_temp: Start and end values of the teacher temperature.
        teacher_temp_warmup_epochs: Epochs over which the temperature goes from start to end.
        freeze_last_layer_epochs: Epochs during which the student's prototypes are frozen.
        teacher_temp_of: Temperature schedules of single losses, keyed by their name in the model (``loss_patch``): dicts of
            ``temp`` and ``warmup_epochs``, which default to those above, and ``start_epoch``, until which the start
            temperature is held (for iBOT, where masking begins late).
        freeze_backbone_epochs: Epochs (may be fractional) during which only heads train, for backbones that start from a
            file. With learning rates by layer (``paramwise_cfg``), the warm-up of the backbone begins afterwards.

    Raises:
        ValueError: A momentum or temperature is out of range, a schedule does not have two ends, ``teacher_temp_of`` has
            unknown keys or names a loss that the model does not have, or training is not epoch-based.
    """

    priority = 'HIGHEST'  # before RuntimeInfoHook logs the learning rate

    def __init__(
        self,
        warmup_epochs: float = 10,
        min_lr: float = 1e-6,
        weight_decay: Sequence[float] = (0.04, 0.4),
        momentum: Sequence[float] = (0.996, 1.0),
        teacher_temp: Sequence[float] = (0.04, 0.04),
        teacher_temp_warmup_epochs: int = 0,
        freeze_last_layer_epochs: int = 1,
        teacher_temp_of: Mapping[str, Mapping] | None = None,
        freeze_backbone_epochs: float = 0,
    ) -> None:
        self.weight_decay, self.momentum = two_ends('weight_decay', weight_decay), two_ends('momentum', momentum)
        if not all(0 <= value <= 1 for value in momentum):
            raise ValueError(f'momentum={tuple(momentum)}: both ends must lie in [0, 1]')
        self.warmup_epochs = warmup_epochs
        self.min_lr = min_lr
        self.temperature: dict[str, Any] = dict(temp=teacher_temp, warmup_epochs=teacher_temp_warmup_epochs, start_epoch=0)
        check_temperature('teacher_temp', self.temperature)
        self.temperature_of: dict[str, dict] = {}
        for name, own in (teacher_temp_of or {}).items():
            if not isinstance(own, Mapping):
                raise ValueError(f'teacher_temp_of.{name}={own!r} must be a dict, such as dict(temp=(0.04, 0.07))')
            self.temperature_of[name] = {**self.temperature, **own}
            check_temperature(f'teacher_temp_of.{name}', self.temperature_of[name])
        self.freeze_last_layer_epochs, self.freeze_backbone_epochs = freeze_last_layer_epochs, freeze_backbone_epochs
        if freeze_backbone_epochs < 0:
            raise ValueError(f'freeze_backbone_epochs={freeze_backbone_epochs} must not be negative')

    @classmethod
    def find_conflicts(cls, place: Place) -> Iterator[Finding]:
        """Conflicts between the schedules and the length of the run."""
        settings, epochs = place.settings, place.get('train_cfg.max_epochs')
        min_lr, decay = settings['min_lr'], tuple(settings['weight_decay'])
        if min_lr < 0 or any(value < 0 for value in decay):
            yield Finding(f'{place.path}: min_lr={min_lr} and weight_decay={decay} must not be negative')
        if place.get('param_scheduler'):
            text = f'conflicts with {place.path}, which sets the learning rate at every step; remove one of the two'
            yield Finding(f'param_scheduler: {text}')
        if isinstance(epochs, int) and epochs >= 1:
            yield from length_conflicts(place, epochs)

    def before_run(self, runner) -> None:
        # Read before a checkpoint is loaded, which sets the learning rate of its last step. Evaluation has no optimizer.
        if isinstance(runner.optim_wrapper, OptimWrapper):
            group = runner.optim_wrapper.optimizer.param_groups[0]
            self.peak_lr = group['lr'] / group.get('lr_scale', 1.0)

    def before_train(self, runner) -> None:
        """Tabulates the schedules, now that the length of the run is known."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError('the schedules are per epoch: use an epoch-based loop (ResumableEpochLoop) in train_cfg')
        counts = runner.optim_wrapper.accumulative_counts
        total = -(-runner.max_iters // counts)
        warmup, frozen = (
            int(epochs * runner.max_iters / runner.max_epochs) // counts
            for epochs in (self.warmup_epochs, self.freeze_backbone_epochs)
        )
        self.total, self.frozen_steps = total, frozen
        self.tables = {
            'lr': cosine_schedule(self.peak_lr, self.min_lr, total, warmup),
            'backbone_lr': late_cosine(self.peak_lr, self.min_lr, total, warmup, frozen),
            'weight_decay': cosine_schedule(*self.weight_decay, total),
            'teacher_momentum': cosine_schedule(*self.momentum, total),
        }
        self.model = unwrapped(runner.model)
        self.tabulate_temperatures(runner.max_epochs)
        self.last_layer = [p for name, p in self.model.student.named_parameters() if 'last_layer' in name]
        self.backbone = [p for _, p in self.model.backbone_parameters()]

    def tabulate_temperatures(self, epochs: int) -> None:
        self.losses = {n: loss for n, loss in self.model.named_modules() if isinstance(loss, SelfDistillationLoss)}
        unknown = self.temperature_of.keys() - self.losses.keys()
        if unknown:
            known = ', '.join(self.losses)
            raise ValueError(f'teacher_temp_of.{min(unknown)}: the model has no loss of this name; available: {known}')
        self.temperatures = temperature_table(epochs, **self.temperature)
        self.temperatures_of = {name: temperature_table(epochs, **own) for name, own in self.temperature_of.items()}

    def before_train_epoch(self, runner) -> None:
        for name, loss in self.losses.items():
            loss.teacher_temp = float(self.temperatures_of.get(name, self.temperatures)[runner.epoch])

    def freeze(self, runner, step: int) -> None:
        """Freezes the last layer and the backbone, each for the first part of the run.

        In a single process no gradients of the backbone are computed; several expect those of all parameters.
        """
        backbone_is_frozen = step < self.frozen_steps
        if self.frozen_steps and not is_distributed():
            for parameter in self.backbone:
                parameter.requires_grad_(not backbone_is_frozen)
        last_layer = self.last_layer if runner.epoch < self.freeze_last_layer_epochs else []
        runner.optim_wrapper.frozen = [*last_layer, *(self.backbone if backbone_is_frozen else [])]

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        step = runner.iter // runner.optim_wrapper.accumulative_counts
        now = {name: float(table[step]) for name, table in self.tables.items()}
        self.freeze(runner, step)
        # `param_groups` of the wrapper includes the entry from which the log reads the learning rate.
        for group in runner.optim_wrapper.param_groups:
            rate = now['backbone_lr' if group.get('part') == 'backbone' else 'lr']
            group['lr'] = rate * group.get('lr_scale', 1.0)
        for index, group in enumerate(runner.optim_wrapper.optimizer.param_groups):
            if group.get('decays', index == 0):
                group['weight_decay'] = now['weight_decay']
        self.model.teacher_momentum = now['teacher_momentum']
        if self.model.anchor is not None:
            self.model.anchor.progress = step / self.total
        for name in ('weight_decay', 'teacher_momentum'):
            runner.message_hub.update_scalar(f'train/{name}', now[name])
        runner.message_hub.update_scalar('train/teacher_temp', float(self.temperatures[runner.epoch]))
        for name, table in self.temperatures_of.items():
            runner.message_hub.update_scalar(f'train/teacher_temp_{name}', float(table[runner.epoch]))


def late_cosine(start: float, end: float, total: int, warmup: int, frozen: int) -> np.ndarray:
    """(total,) zeros for ``frozen`` steps, then :func:`cosine_schedule` over the others, with the same length of warm-up."""
    left = max(total - frozen, 0)
    return np.concatenate((np.zeros(total - left), cosine_schedule(start, end, left, min(warmup, left))))


def two_ends(key: str, values: Sequence[float]) -> tuple[float, float]:
    """Start and end of a schedule; a ValueError for anything but two numbers."""
    if len(values) != 2:
        raise ValueError(f'{key}={tuple(values)}: must be two numbers, at the start and at the end')
    return values[0], values[1]


def length_conflicts(place: Place, epochs: int) -> Iterator[Finding]:
    """Schedules that would end after the run."""
    length = f'train_cfg.max_epochs={epochs}'
    rise, frozen, warmup = (
        place.settings[key] for key in ('warmup_epochs', 'freeze_last_layer_epochs', 'teacher_temp_warmup_epochs')
    )
    heads_only = place.settings['freeze_backbone_epochs']
    if heads_only >= epochs:
        yield Finding(
            f'{place.path}.freeze_backbone_epochs={heads_only} >= {length}: the backbone is never trained; lower it'
        )
    if rise > epochs:
        text = f'{place.path}.warmup_epochs={rise} > {length}: the learning rate never reaches its peak'
        yield Finding(f'{text}; lower the first')
    if frozen >= epochs:
        text = f'{place.path}.freeze_last_layer_epochs={frozen} >= {length}: the last layer is never trained'
        yield Finding(f'{text}; lower the first', fatal=frozen > epochs)
    if warmup > epochs:
        text = f'{place.path}.teacher_temp_warmup_epochs={warmup} > {length}: the run ends before the teacher temperature'
        yield Finding(f'{text} reaches its end', fatal=False)
