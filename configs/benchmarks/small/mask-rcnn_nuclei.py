"""Mask R-CNN on nuclei (2018 Data Science Bowl, one class), with the small network of ``configs/adclr/vitmini8_small.py``.

    python tools/train.py configs/benchmarks/small/mask-rcnn_nuclei.py --cfg-options pretrained=PATH data_root=DIR

541 images of at most 360 pixels, 16,158 objects; data/nuclei contains train/, val/ and
annotations/instances_{train,val}.json. Minutes on two CPU cores. Measurements: docs/results.md.
"""

_base_ = [
    '../../_base_/models/mask-rcnn_mini.py',
    '../../_base_/schedules/adamw_mini.py',
    '../../_base_/detection_runtime.py',
]

model = dict(
    backbone=dict(arch=dict(embed_dim=96, depth=4, num_heads=4, patch_size=8), img_size=48, out_indices=(0, 1, 2, 3)),
    neck=[
        dict(type='mmadclr.ViTPyramid', embed_dim=96),
        dict(type='FPN', in_channels=[96] * 4, out_channels=48, num_outs=4),
    ],
    roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1)),
    # An image has up to 100 nuclei.
    train_cfg=dict(rpn_proposal=dict(nms_pre=1000, max_per_img=200), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=300), rcnn=dict(max_per_img=100)),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        data_root='data/nuclei',
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=('nucleus',)),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='Resize', scale=(256, 256), keep_ratio=True),
            dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical', 'diagonal']),
            dict(type='PackDetInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root='data/nuclei',
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        metainfo=dict(classes=('nucleus',)),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(256, 256), keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file='data/nuclei/annotations/instances_val.json', metric=['bbox', 'segm'])
test_evaluator = val_evaluator

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', T_max=2, by_epoch=True, begin=0, end=2, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=True, base_batch_size=4)
