"""SelfPatch, ViT-S/16, for thousands of images: 96-pixel views, 1024 prototypes, a faster and sharper teacher, 200 epochs.

    python tools/train.py configs/selfpatch/vits16_small.py

Reads class folders data/images/{train,val}; labels serve k-NN only. The twin of ``configs/adclr/vits16_small.py``, which
says why these settings are not those for a million images. Views have 6 x 6 and 3 x 3 patches; across the edges of the small
ones all patches would touch each other, so only real neighbours count. Not yet run by us.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/small.py',
    '../_base_/models/dino_vits16.py',
    '../_base_/schedules/dino_800e.py',
]

model = dict(
    type='SelfPatch',
    backbone=dict(img_size=96, drop_path_rate=0.0),
    head=dict(out_dim=1024, norm_last_layer=True),
    patch_head=dict(out_dim=1024),
    class_attention=dict(wrap=False),
    loss_patch=dict(student_temp=0.1, centre_momentum=0.9),
)
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
