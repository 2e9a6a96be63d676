"""Thousands of small photographs in class folders in data/images/{train,val}: 96-pixel views, k-NN for validation."""

train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='EpochSampler', shuffle=True),
    collate_fn=dict(type='mmadclr.collate_samples'),
    dataset=dict(
        type='ImageDataset',
        data_root='data/images/train',
        transform=dict(
            type='MultiCrop',
            global_size=96,
            global_scale=(0.3, 1.0),
            local_size=48,
            local_scale=(0.05, 0.3),
            num_local=4,
            query_size=16,
            num_query=0,
            # Blur radii are scaled to the view size; DINO's range is for 224 pixels.
            global_1=dict(blur=0.5, blur_radius=(0.1, 1.0)),
            global_2=dict(blur=0.1, blur_radius=(0.1, 1.0)),
            local=dict(blur=0.25, blur_radius=(0.1, 0.5)),
            query=dict(blur=0.0),
        ),
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=2,
    sampler=dict(type='EpochSampler', shuffle=False),
    collate_fn=dict(type='mmadclr.collate_samples'),
    dataset=dict(
        type='ImageDataset',
        data_root='data/images/val',
        with_label=True,
        transform=dict(type='ResizeCenterCrop', resize=96, size=96),
    ),
)
val_cfg = dict(type='FeatureEvalLoop', bank=dict(data_root='data/images/train'))
val_evaluator = dict(knn=dict(type='WeightedKNN', k=20, temperature=0.07))
