"""DINO that continues from the weights of a file, which tells the architecture, with an anchor to them and 1024 prototypes.

No value is measured: they are starting points (docs/adapt.md).
"""

model = dict(
    type='DINO',
    backbone=dict(
        type='QueryViT',
        arch=None,  # these two are those of the file
        img_size=None,
        drop_path_rate=0.0,
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
    head=dict(type='DINOHead', out_dim=1024, hidden_dim=2048, bottleneck_dim=256, norm_last_layer=True),
    loss_cls=dict(student_temp=0.1, center_momentum=0.9),
    frozen_blocks=0,
    anchor=dict(gram_weight=(2.0, 2.0), cls_weight=(1.0, 0.1), hold=1 / 3),
)
