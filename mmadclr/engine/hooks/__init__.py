from mmadclr.engine.hooks.schedule_hook import DistillationScheduleHook
from mmadclr.engine.hooks.training_hooks import (
    EpochSeedHook,
    FiniteLossHook,
    TeacherUpdateHook,
    ThroughputHook,
    UnreadableImageHook,
)

__all__ = [
    'DistillationScheduleHook',
    'EpochSeedHook',
    'FiniteLossHook',
    'TeacherUpdateHook',
    'ThroughputHook',
    'UnreadableImageHook',
]
