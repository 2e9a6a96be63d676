"""MoCo v3 with a vision transformer of 0.16 M parameters on generated 32-pixel images: minutes on two CPU cores.

    python tools/train.py configs/demo/mocov3_vittiny_shapes.py

Same setup as ``dino_vittiny_shapes.py`` without local views. The heads have batch norms, so batches should not be small.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/demo_50e.py',
]

model = dict(
    type='MoCoV3',
    backbone=dict(
        type='QueryViT',
        arch=dict(embed_dim=64, depth=3, num_heads=4, patch_size=8),
        img_size=32,
    ),
    head=dict(type='MLPHead', out_dim=64, hidden_dim=128),
    temperature=0.2,
)
train_dataloader = dict(dataset=dict(transform=dict(num_local=0)))
