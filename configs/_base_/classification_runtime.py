"""Settings shared by all classification runs: mmpretrain's scope, stand-in operations, hooks, logs."""

default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmadclr.ops'], allow_failed_imports=False)
# Mixup and drop path differ between processes, as in microsoft/unilm, beit/run_class_finetuning.py, which adds the rank.
randomness = dict(seed=0, diff_rank_seed=True)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=10, max_keep_ckpts=1),
    sampler_seed=dict(type='mmadclr.OrderHook'),
    report=dict(type='mmadclr.ReportHook'),
    class_names=dict(type='mmadclr.ClassNamesHook'),
    visualization=dict(type='VisualizationHook', enable=False),
)
env_cfg = dict(dist_cfg=dict(backend='nccl'))
visualizer = dict(
    type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
