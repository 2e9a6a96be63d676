"""``dino_800e.py`` for small models and images: 50 epochs, low teacher temperature and momentum, high learning rate."""

train_cfg = dict(type='ResumableEpochLoop', max_epochs=50, val_interval=10)
optim_wrapper = dict(
    type='SelfDistillationOptimWrapper',
    constructor='SelfDistillationOptimConstructor',
    optimizer=dict(type='AdamW', lr=3e-3),
    max_norm=3.0,
    precision='auto',  # bf16 on a GPU, fp32 on a CPU
)
auto_scale_lr = dict(enable=True, base_batch_size=64)
default_hooks = dict(
    checkpoint=dict(interval=10, max_keep_ckpts=1),
    schedule=dict(
        type='DistillationScheduleHook',
        warmup_epochs=2,
        min_lr=1e-5,
        weight_decay=(0.04, 0.04),
        momentum=(0.98, 1.0),
        teacher_temp=(0.025, 0.025),
        teacher_temp_warmup_epochs=0,
        freeze_last_layer_epochs=0,
    ),
)
