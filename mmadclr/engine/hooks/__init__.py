from mmadclr.engine.hooks.best_hook import KeepBestHook
from mmadclr.engine.hooks.checkpoint_hook import SafeCheckpointHook
from mmadclr.engine.hooks.class_names_hook import ClassNamesHook
from mmadclr.engine.hooks.collapse_hook import CollapseMonitorHook
from mmadclr.engine.hooks.feature_hook import FeaturePicturesHook
from mmadclr.engine.hooks.garbage_hook import GarbageCollectionHook
from mmadclr.engine.hooks.loss_hook import LossRecordHook
from mmadclr.engine.hooks.picture_hook import CropsPictureHook
from mmadclr.engine.hooks.report_hook import ReportHook
from mmadclr.engine.hooks.schedule_hook import DistillationScheduleHook
from mmadclr.engine.hooks.table_hook import ValidationTableHook
from mmadclr.engine.hooks.training_hooks import (
    EpochSeedHook,
    OrderHook,
    TeacherUpdateHook,
    ThroughputHook,
    UnreadableImageHook,
)
from mmadclr.engine.hooks.watchdog_hook import WatchdogHook
from mmadclr.engine.hooks.worse_hook import StopWhenWorseHook

__all__ = [
    'ClassNamesHook',
    'CollapseMonitorHook',
    'CropsPictureHook',
    'DistillationScheduleHook',
    'EpochSeedHook',
    'FeaturePicturesHook',
    'GarbageCollectionHook',
    'KeepBestHook',
    'LossRecordHook',
    'OrderHook',
    'ReportHook',
    'SafeCheckpointHook',
    'StopWhenWorseHook',
    'TeacherUpdateHook',
    'ThroughputHook',
    'UnreadableImageHook',
    'ValidationTableHook',
    'WatchdogHook',
]
