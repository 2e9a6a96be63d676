"""20 epochs from the weights of a file: heads alone for four epochs, then all with low rates that fall with depth.

``lr`` is the rate of the last block for a batch of 64 images: 2e-4 for 1024 images, by the square root of the batch. Heads
have four times as much. No value is measured: they are starting points (docs/adapt.md).
"""

train_cfg = dict(type='ResumableEpochLoop', max_epochs=20, val_interval=2)
optim_wrapper = dict(
    type='SelfDistillationOptimWrapper',
    constructor='SelfDistillationOptimConstructor',
    optimizer=dict(type='AdamW', lr=5e-5),
    paramwise_cfg=dict(layer_decay=0.85, patch_embed_scale=0.2, head_scale=4.0),
    max_norm=1.0,
    precision='auto',  # bf16 on a GPU, fp32 on a CPU
)
auto_scale_lr = dict(enable=False, base_batch_size=64)
default_hooks = dict(
    checkpoint=dict(interval=1, max_keep_ckpts=1),
    schedule=dict(
        type='DistillationScheduleHook',
        warmup_epochs=1,
        min_lr=1e-7,
        weight_decay=(0.04, 0.04),
        momentum=(0.99, 0.999),
        teacher_temp=(0.03, 0.04),
        teacher_temp_warmup_epochs=6,
        freeze_last_layer_epochs=0,
        freeze_backbone_epochs=4,
    ),
)
