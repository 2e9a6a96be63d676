"""100 epochs of SGD for a linear classifier, cosine to zero, updated per epoch; fp32, as published (or ``--amp bf16``)."""

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100, val_interval=10)
optim_wrapper = dict(
    type='mmadclr.AutocastOptimWrapper',
    optimizer=dict(type='SGD', lr=0.001, momentum=0.9, weight_decay=0.0),
    precision='fp32',
)
param_scheduler = dict(type='CosineAnnealingLR', T_max=100, eta_min=0.0, by_epoch=True, begin=0, end=100)
auto_scale_lr = dict(enable=True, base_batch_size=256)
