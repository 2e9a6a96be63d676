from mmadclr.engine.hooks import (
    DistillationScheduleHook,
    EpochSeedHook,
    FiniteLossHook,
    TeacherUpdateHook,
    ThroughputHook,
    UnreadableImageHook,
)
from mmadclr.engine.loops import FeatureEvalLoop
from mmadclr.engine.optim import SelfDistillationOptimConstructor, SelfDistillationOptimWrapper
from mmadclr.engine.runner import Runner

__all__ = [
    'DistillationScheduleHook',
    'EpochSeedHook',
    'FeatureEvalLoop',
    'FiniteLossHook',
    'Runner',
    'SelfDistillationOptimConstructor',
    'SelfDistillationOptimWrapper',
    'TeacherUpdateHook',
    'ThroughputHook',
    'UnreadableImageHook',
]
