"""Settings shared by all segmentation runs: mmseg's scope, stand-in operations, hooks by iteration, logs."""

default_scope = 'mmseg'
custom_imports = dict(imports=['mmadclr.ops'], allow_failed_imports=False)
randomness = dict(seed=0)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=8000, max_keep_ckpts=2),
    sampler_seed=dict(type='mmadclr.OrderHook'),
    report=dict(type='mmadclr.ReportHook'),
    visualization=dict(type='SegVisualizationHook'),
)
env_cfg = dict(dist_cfg=dict(backend='nccl'))
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=False)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
