"""ImageNet-1k in class folders in data/imagenet/{train,val}; DINO's multi-crop, validation by k-NN of [CLS]."""

train_dataloader = dict(
    batch_size=128,  # per process; 8 processes give the published total of 1024
    num_workers=16,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type='EpochSampler', shuffle=True),
    collate_fn=dict(type='mmadclr.collate_samples'),
    dataset=dict(
        type='ImageDataset',
        data_root='data/imagenet/train',
        transform=dict(
            type='MultiCrop',
            global_size=224,
            global_scale=(0.25, 1.0),
            local_size=96,
            local_scale=(0.05, 0.25),
            num_local=10,
            num_query=0,
        ),
    ),
)

# The bank for k-NN consists of the features of the training images.
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='EpochSampler', shuffle=False),
    collate_fn=dict(type='mmadclr.collate_samples'),
    dataset=dict(
        type='ImageDataset',
        data_root='data/imagenet/val',
        with_label=True,
        transform=dict(type='ResizeCenterCrop', resize=256, size=224),
    ),
)
val_cfg = dict(type='FeatureEvalLoop', bank=dict(data_root='data/imagenet/train'))
val_evaluator = dict(knn=dict(type='WeightedKNN', k=(10, 20), temperature=0.07))
