"""All schedules of self-distillation in one place."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop

from mmadclr.engine.schedules import cosine_schedule, linear_warmup
from mmadclr.models.wrappers import unwrapped
from mmadclr.registry import HOOKS


@HOOKS.register_module()
class DistillationScheduleHook(Hook):
    """Sets learning rate, weight decay, teacher momentum, teacher temperature and the frozen last layer.

    The first three follow cosines per optimizer step, the temperature and the freezing go by epochs, all as
    facebookresearch/dino, ``main_dino.py``. The learning rate peaks at the optimizer's ``lr`` after ``auto_scale_lr``.
    Values are functions of the step alone, so a resumed run continues them exactly.

    Args:
        warmup_epochs: Epochs (fractions allowed) over which the learning rate rises from 0.
        min_lr: Learning rate at the end; absolute, not scaled with the batch.
        weight_decay: Start and end, for the decayed parameter group.
        momentum: Start and end of the teacher's momentum.
        teacher_temp: Start and end of the teacher's temperature.
        teacher_temp_warmup_epochs: Epochs over which the temperature goes from start to end.
        freeze_last_layer_epochs: Epochs during which the student's prototypes keep still.

    Raises:
        ValueError: A momentum or temperature is out of range, or the run is not organised in epochs.
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
    ) -> None:
        if not all(0 <= value <= 1 for value in momentum):
            raise ValueError(f'momentum={tuple(momentum)}: both ends must lie in [0, 1]')
        if not all(value > 0 for value in teacher_temp):
            raise ValueError(f'teacher_temp={tuple(teacher_temp)}: both ends must be positive')
        self.warmup_epochs = warmup_epochs
        self.min_lr = min_lr
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.teacher_temp = teacher_temp
        self.teacher_temp_warmup_epochs = teacher_temp_warmup_epochs
        self.freeze_last_layer_epochs = freeze_last_layer_epochs

    def before_run(self, runner) -> None:
        # Before a checkpoint is loaded: afterwards the optimizer holds the learning rate of its last step. An evaluation
        # has no optimizer.
        if isinstance(runner.optim_wrapper, OptimWrapper):
            self.peak_lr = runner.optim_wrapper.optimizer.param_groups[0]['lr']

    def before_train(self, runner) -> None:
        """Tabulates the schedules, now that the length of the run is known."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError('the schedules go by epochs: use EpochBasedTrainLoop (epochs of any length) in train_cfg')
        counts = runner.optim_wrapper.accumulative_counts
        total = -(-runner.max_iters // counts)
        warmup = int(self.warmup_epochs * runner.max_iters / runner.max_epochs) // counts
        self.tables = {
            'lr': cosine_schedule(self.peak_lr, self.min_lr, total, warmup),
            'weight_decay': cosine_schedule(*self.weight_decay, total),
            'teacher_momentum': cosine_schedule(*self.momentum, total),
        }
        self.temperatures = linear_warmup(*self.teacher_temp, runner.max_epochs, self.teacher_temp_warmup_epochs)
        self.model = unwrapped(runner.model)
        self.last_layer = [p for name, p in self.model.student.named_parameters() if 'last_layer' in name]

    def before_train_epoch(self, runner) -> None:
        for loss in self.model.distillation_losses():
            loss.teacher_temp = float(self.temperatures[runner.epoch])
        frozen = runner.epoch < self.freeze_last_layer_epochs
        runner.optim_wrapper.frozen = self.last_layer if frozen else []

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        step = runner.iter // runner.optim_wrapper.accumulative_counts
        now = {name: float(table[step]) for name, table in self.tables.items()}
        # `param_groups` of the wrapper also lists the entry the log reads the learning rate from.
        for group in runner.optim_wrapper.param_groups:
            group['lr'] = now['lr']
        runner.optim_wrapper.optimizer.param_groups[0]['weight_decay'] = now['weight_decay']
        self.model.teacher_momentum = now['teacher_momentum']
        for name in ('weight_decay', 'teacher_momentum'):
            runner.message_hub.update_scalar(f'train/{name}', now[name])
        temperature = float(self.temperatures[runner.epoch])
        runner.message_hub.update_scalar('train/teacher_temp', temperature)
