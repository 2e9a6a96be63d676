"""ADCLR, ViT-S/16, thousands of images, 200 epochs: 96-pixel views, 1024 prototypes, low teacher momentum and temperature.

    python tools/train.py configs/adclr/vits16_small.py

Reads class folders in data/images/{train,val}; labels are used only for k-NN. DINO's settings are for a million images.
With a thousandth of that, the model never uses all 65536 prototypes, a teacher with momentum .996 barely changes within an
epoch, and with a temperature of .04 the loss stays at ln K for a long time. Measurements so far: docs/results.md.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/small.py',
    '../_base_/models/dino_vits16.py',
    '../_base_/schedules/dino_800e.py',
]

model = dict(
    type='ADCLR',
    backbone=dict(img_size=96, drop_path_rate=0.0),
    head=dict(out_dim=1024, norm_last_layer=True),
    query_weight=1.0,
    loss_query=dict(student_temp=0.1, center_momentum=0.9),
)
train_dataloader = dict(dataset=dict(transform=dict(num_query=4, query_scale=(0.05, 0.25), query_photometric='per_view')))
train_cfg = dict(max_epochs=200, val_interval=5)
optim_wrapper = dict(max_norm=3.0)
default_hooks = dict(
    checkpoint=dict(interval=5),
    schedule=dict(
        warmup_epochs=5,
        weight_decay=(0.04, 0.1),
        momentum=(0.99, 1.0),
        teacher_temp=(0.02, 0.04),
        teacher_temp_warmup_epochs=30,
    ),
)
