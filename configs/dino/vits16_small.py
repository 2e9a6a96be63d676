"""DINO, ViT-S/16, thousands of images, 200 epochs: 96-pixel views, 1024 prototypes, low teacher momentum and temperature.

    python tools/train.py configs/dino/vits16_small.py

Reads class folders in data/images/{train,val}; labels are used only for k-NN. Same as ``configs/adclr/vits16_small.py``
without queries; that file explains the settings. Not yet run by us.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/small.py',
    '../_base_/models/dino_vits16.py',
    '../_base_/schedules/dino_800e.py',
]

model = dict(backbone=dict(img_size=96, drop_path_rate=0.0), head=dict(out_dim=1024, norm_last_layer=True))
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
