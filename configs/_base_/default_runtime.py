"""What every run shares: logs, checkpoints, the hooks that keep self-distillation correct."""

default_scope = 'mmadclr'
randomness = dict(seed=0)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2, save_param_scheduler=False),
    teacher=dict(type='TeacherUpdateHook'),
    epoch_seed=dict(type='EpochSeedHook'),
    finite_loss=dict(type='FiniteLossHook'),
    unreadable=dict(type='UnreadableImageHook', max_unreadable=100),
    throughput=dict(type='ThroughputHook'),
)
# JSON lines in vis_data/scalars.json, and the same for TensorBoard.
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
env_cfg = dict(dist_cfg=dict(backend='nccl'))
