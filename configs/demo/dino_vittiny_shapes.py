"""DINO with a vision transformer of 0.16 M parameters on generated 32-pixel images: minutes on two CPU cores.

    python tools/train.py configs/demo/dino_vittiny_shapes.py

Small numbers of prototypes, a sharp and fast teacher and Xavier initialisation let so small a model leave the plateau
at loss = ln K within a few hundred steps.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/dino_800e.py',
]

model = dict(
    type='DINO',
    backbone=dict(
        type='QueryViT',
        arch=dict(embed_dim=64, depth=3, num_heads=4, patch_size=8),
        img_size=32,
        init='xavier',
    ),
    head=dict(type='DINOHead', out_dim=64, hidden_dim=128, bottleneck_dim=32, norm_last_layer=True, init='xavier'),
    loss_cls=dict(student_temp=0.1, centre_momentum=0.9),
)
train_cfg = dict(max_epochs=50, val_interval=10)
optim_wrapper = dict(optimizer=dict(lr=3e-3), max_norm=3.0)
auto_scale_lr = dict(base_batch_size=64)
default_hooks = dict(
    checkpoint=dict(interval=10, max_keep_ckpts=1),
    schedule=dict(
        warmup_epochs=2,
        weight_decay=(0.04, 0.04),
        momentum=(0.98, 1.0),
        teacher_temp=(0.025, 0.025),
        teacher_temp_warmup_epochs=0,
        freeze_last_layer_epochs=0,
    ),
)
