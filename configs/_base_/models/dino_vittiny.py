"""DINO with a vision transformer of 0.16 M parameters for 32-pixel images: 64 prototypes, Xavier initialization."""

model = dict(
    type='DINO',
    backbone=dict(
        type='QueryViT',
        arch=dict(embed_dim=64, depth=3, num_heads=4, patch_size=8),
        img_size=32,
        init='xavier',
    ),
    head=dict(type='DINOHead', out_dim=64, hidden_dim=128, bottleneck_dim=32, norm_last_layer=True, init='xavier'),
    loss_cls=dict(student_temp=0.1, center_momentum=0.9),
)
