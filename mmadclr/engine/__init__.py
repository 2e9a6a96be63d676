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
from mmadclr.engine.optimizers.constructors import LayerDecayOptimConstructor, SelfDistillationOptimConstructor
from mmadclr.engine.optimizers.wrappers import AutocastOptimWrapper, SelfDistillationOptimWrapper
from mmadclr.engine.runners.epoch_loop import ResumableEpochLoop
from mmadclr.engine.runners.runner import Runner

__all__ = [
    'AutocastOptimWrapper',
    'ClassNamesHook',
    'CollapseMonitorHook',
    'DistillationScheduleHook',
    'EpochSeedHook',
    'LayerDecayOptimConstructor',
    'LossRecordHook',
    'ResumableEpochLoop',
    'Runner',
    'SafeCheckpointHook',
    'SelfDistillationOptimConstructor',
    'SelfDistillationOptimWrapper',
    'TeacherUpdateHook',
    'ThroughputHook',
    'UnreadableImageHook',
    'WatchdogHook',
]
