"""UperNet on aerial images (Dubai, 5 classes), with the small network of ``configs/adclr/vitmini8_small.py``.

    python tools/train.py configs/benchmarks/small/upernet_aerial.py --cfg-options pretrained=PATH data_root=DIR

279 + 144 crops of 256 pixels; data/aerial contains images/ and annotations/, each with training/ and validation/. Masks have
labels 0 to 4, and 255 for unlabeled pixels. Minutes on two CPU cores. Measurements: docs/results.md.
"""

_base_ = [
    '../../_base_/models/upernet_mini.py',
    '../../_base_/schedules/adamw_mini.py',
    '../../_base_/segmentation_runtime.py',
]

metainfo = dict(classes=('building', 'land', 'road', 'vegetation', 'water'))
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(arch=dict(embed_dim=96, depth=4, num_heads=4, patch_size=8), img_size=48, out_indices=(0, 1, 2, 3)),
    neck=dict(embed_dim=96),
    decode_head=dict(in_channels=[96] * 4, num_classes=5),
)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='BaseSegDataset',
        data_root='data/aerial',
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        metainfo=metainfo,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='RandomCrop', crop_size=(128, 128), cat_max_ratio=0.75),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_root='data/aerial',
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        metainfo=metainfo,
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

train_cfg = dict(type='IterBasedTrainLoop', max_iters=300, val_interval=300)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=50, end=300),
]
default_hooks = dict(checkpoint=dict(interval=300))
auto_scale_lr = dict(enable=True, base_batch_size=8)
