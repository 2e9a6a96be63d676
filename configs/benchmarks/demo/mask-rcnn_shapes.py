"""Mask R-CNN on scenes of generated shapes, with the network of the pretraining demo: minutes on two CPU cores.

    python tools/train.py configs/benchmarks/demo/mask-rcnn_shapes.py --cfg-options pretrained=work_dirs/demo/epoch_50.pth
    python tools/train.py configs/benchmarks/demo/mask-rcnn_shapes.py                            # random initialization

Ten classes, three to six objects in an image of 96 pixels. ``make demo`` runs both commands and reports COCO's box and mask
AP.
"""

_base_ = [
    '../../_base_/models/mask-rcnn_mini.py',
    '../../_base_/schedules/adamw_mini.py',
    '../../_base_/detection_runtime.py',
]

model = dict(roi_head=dict(bbox_head=dict(num_classes=10), mask_head=dict(num_classes=10)))
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmadclr.ScenesDetection',
        data_root='data/scenes',
        split='train',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='Resize', scale=(96, 96), keep_ratio=True),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmadclr.ScenesDetection',
        data_root='data/scenes',
        split='val',
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(96, 96), keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file='data/scenes/annotations/instances_val.json', metric=['bbox', 'segm'])
test_evaluator = val_evaluator

train_cfg = dict(type='IterBasedTrainLoop', max_iters=250, val_interval=250)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=50, end=250),
]
default_hooks = dict(logger=dict(log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=250, max_keep_ckpts=1))
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(enable=True, base_batch_size=8)
