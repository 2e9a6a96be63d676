"""DINO's optimization for 800 epochs: AdamW, learning rate 5e-4 per 256 images, and all schedules."""

train_cfg = dict(type='ResumableEpochLoop', max_epochs=800, val_interval=20)
optim_wrapper = dict(
    type='SelfDistillationOptimWrapper',
    constructor='SelfDistillationOptimConstructor',
    optimizer=dict(type='AdamW', lr=5e-4),
    max_norm=None,
    precision='auto',  # bf16 on a GPU, fp32 on a CPU
)
auto_scale_lr = dict(enable=True, base_batch_size=256)
default_hooks = dict(
    schedule=dict(
        type='DistillationScheduleHook',
        warmup_epochs=10,
        min_lr=1e-5,
        weight_decay=(0.04, 0.4),
        momentum=(0.996, 1.0),
        teacher_temp=(0.04, 0.07),
        teacher_temp_warmup_epochs=30,
        freeze_last_layer_epochs=1,
    ),
)
