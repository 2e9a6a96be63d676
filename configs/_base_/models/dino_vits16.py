"""DINO's ViT-S/16 and head, as published for 800 epochs."""

model = dict(
    type='DINO',
    backbone=dict(type='QueryViT', arch='vit_small_patch16_224', img_size=224, drop_path_rate=0.1),
    head=dict(type='DINOHead', out_dim=65536, hidden_dim=2048, bottleneck_dim=256, norm_last_layer=False),
    loss_cls=dict(student_temp=0.1, center_momentum=0.9),
)
