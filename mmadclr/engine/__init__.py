from mmadclr.engine.hooks import (
    DistillationScheduleHook,
    EpochSeedHook,
    LossRecordHook,
    TeacherUpdateHook,
    ThroughputHook,
    UnreadableImageHook,
)
from mmadclr.engine.loops import FeatureEvalLoop
from mmadclr.engine.optim import (
    AutocastOptimWrapper,
    LayerDecayOptimConstructor,
    SelfDistillationOptimConstructor,
    SelfDistillationOptimWrapper,
)
from mmadclr.engine.runner import Runner

__all__ = [
    'AutocastOptimWrapper',
    'DistillationScheduleHook',
    'EpochSeedHook',
    'FeatureEvalLoop',
    'LayerDecayOptimConstructor',
    'LossRecordHook',
    'Runner',
    'SelfDistillationOptimConstructor',
    'SelfDistillationOptimWrapper',
    'TeacherUpdateHook',
    'ThroughputHook',
    'UnreadableImageHook',
]
