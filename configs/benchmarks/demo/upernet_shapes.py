"""UperNet on generated shapes, with the network of the pretraining demo: minutes on two CPU cores.

    python tools/train.py configs/benchmarks/demo/upernet_shapes.py --cfg-options pretrained=work_dirs/demo/epoch_50.pth
    python tools/train.py configs/benchmarks/demo/upernet_shapes.py                              # random initialization

Background and ten classes on images of 64 pixels. ``make demo`` runs both commands and reports mIoU.
"""

_base_ = [
    '../../_base_/models/upernet_mini.py',
    '../../_base_/schedules/adamw_mini.py',
    '../../_base_/segmentation_runtime.py',
]

model = dict(decode_head=dict(num_classes=11))
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='mmadclr.ShapesSegmentation',
        data_root='data/shapes',
        split='train',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmadclr.ShapesSegmentation',
        data_root='data/shapes',
        split='val',
        test_mode=True,
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
default_hooks = dict(checkpoint=dict(interval=300, max_keep_ckpts=1))
auto_scale_lr = dict(enable=True, base_batch_size=16)
