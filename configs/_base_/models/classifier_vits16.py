"""A linear classifier on [CLS] of ViT-S/16, in mmpretrain's ImageClassifier."""

model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ClsDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
    ),
    backbone=dict(
        type='mmadclr.ClassifierViT',
        arch='vit_small_patch16_224',
        img_size=224,
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
    head=dict(type='LinearClsHead', num_classes=1000, in_channels=384, loss=dict(type='CrossEntropyLoss', loss_weight=1.0)),
)
