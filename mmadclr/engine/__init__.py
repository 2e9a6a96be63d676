from mmadclr.engine.hooks import (
    DistillationScheduleHook,
    EpochSeedHook,
    LossRecordHook,
    TeacherUpdateHook,
    ThroughputHook,
    UnreadableImageHook,
    WatchdogHook,
)
from mmadclr.engine.hooks.checkpoint_hook import SafeCheckpointHook
from mmadclr.engine.hooks.class_names_hook import ClassNamesHook
from mmadclr.engine.hooks.collapse_hook import CollapseMonitorHook
from mmadclr.engine.linear_sweep import LinearSweepLoop, LinearSweepOptimConstructor, SweepAccuracy
from mmadclr.engine.loops import FeatureEvalLoop
from mmadclr.engine.optim import (
    AutocastOptimWrapper,
    LayerDecayOptimConstructor,
    SelfDistillationOptimConstructor,
    SelfDistillationOptimWrapper,
)
from mmadclr.engine.runner import Runner
from mmadclr.engine.train_loop import ResumableEpochLoop

__all__ = [
    'AutocastOptimWrapper',
    'ClassNamesHook',
    'CollapseMonitorHook',
    'DistillationScheduleHook',
    'EpochSeedHook',
    'FeatureEvalLoop',
    'LayerDecayOptimConstructor',
    'LinearSweepLoop',
    'LinearSweepOptimConstructor',
    'LossRecordHook',
    'ResumableEpochLoop',
    'Runner',
    'SafeCheckpointHook',
    'SelfDistillationOptimConstructor',
    'SelfDistillationOptimWrapper',
    'SweepAccuracy',
    'TeacherUpdateHook',
    'ThroughputHook',
    'UnreadableImageHook',
    'WatchdogHook',
]
