"""200 epochs of AdamW with layer decay: warm-up for 20 epochs from 1e-6 to the peak of 1e-3, then cosine to 1e-6."""

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=200, val_interval=10)
optim_wrapper = dict(
    type='mmadclr.AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    precision='auto',  # bf16 on a GPU
    constructor='mmadclr.LayerDecayOptimConstructor',
    paramwise_cfg=dict(decay_rate=0.75, no_decay=('pos_embed', 'cls_token')),
)
# These are factors, not rates: with layer decay, the start and end rates of earlier blocks are lower as well.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-3, by_epoch=True, begin=20, end=200, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=True, base_batch_size=1024)
