"""Settings shared by all detection runs: mmdet's scope, stand-in operations, hooks, logs."""

default_scope = 'mmdet'
custom_imports = dict(imports=['mmadclr.ops'], allow_failed_imports=False)
randomness = dict(seed=0)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type='mmadclr.OrderHook'),
    report=dict(type='mmadclr.ReportHook'),
    visualization=dict(type='DetVisualizationHook'),
)
env_cfg = dict(dist_cfg=dict(backend='nccl'))
visualizer = dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
