"""ImageNet-1k in class folders in data/imagenet/{train,val}: random crops and flips, center crops of 224 for tests."""

train_dataloader = dict(
    batch_size=128,
    num_workers=12,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmadclr.ClassFolders',
        data_root='data/imagenet',
        split='train',
        pipeline=[
            dict(type='LoadImageFromFile', color_type='color', imdecode_backend='pillow'),
            dict(type='RandomResizedCrop', scale=224, backend='pillow', interpolation='bilinear'),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=12,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmadclr.ClassFolders',
        data_root='data/imagenet',
        split='val',
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile', color_type='color', imdecode_backend='pillow'),
            dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
            dict(type='CenterCrop', crop_size=224),
            dict(type='PackInputs'),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
