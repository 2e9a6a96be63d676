"""Photographs of 100 classes in class folders in data/images/{train,val}: views of 48 pixels."""

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmadclr.ClassFolders',
        data_root='data/images',
        split='train',
        pipeline=[
            dict(type='LoadImageFromFile', color_type='color', imdecode_backend='pillow'),
            dict(
                type='RandomResizedCrop', scale=48, crop_ratio_range=(0.3, 1.0), backend='pillow', interpolation='bilinear'
            ),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmadclr.ClassFolders',
        data_root='data/images',
        split='val',
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile', color_type='color', imdecode_backend='pillow'),
            dict(type='ResizeEdge', scale=48, edge='short', backend='pillow', interpolation='bicubic'),
            dict(type='CenterCrop', crop_size=48),
            dict(type='PackInputs'),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
