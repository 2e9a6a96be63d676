"""Settings shared by all runs: seed, logs, processes."""

default_scope = 'mmadclr'
randomness = dict(seed=0)
# Scalars are written to vis_data/scalars.json as JSON lines, and to TensorBoard files.
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
env_cfg = dict(dist_cfg=dict(backend='nccl'))
