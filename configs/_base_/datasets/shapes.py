"""Generated shapes, written to data/shapes on first use; small views with mild color changes, k-NN for validation."""

colors = dict(jitter=0.5, brightness=0.3, contrast=0.3, saturation=0.2, hue=0.05, gray=0.0, blur=0.0, solarize=0.0)

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='EpochSampler', shuffle=True),
    collate_fn=dict(type='mmadclr.collate_samples'),
    dataset=dict(
        type='ShapesDataset',
        data_root='data/shapes',
        split='train',
        transform=dict(
            type='MultiCrop',
            global_size=32,
            global_scale=(0.3, 1.0),
            local_size=16,
            local_scale=(0.1, 0.4),
            num_local=2,
            query_size=8,
            num_query=0,
            global_1=colors,
            global_2=colors,
            local=colors,
            query=colors,
        ),
    ),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    sampler=dict(type='EpochSampler', shuffle=False),
    collate_fn=dict(type='mmadclr.collate_samples'),
    dataset=dict(
        type='ShapesDataset',
        data_root='data/shapes',
        split='val',
        with_label=True,
        transform=dict(type='ResizeCenterCrop', resize=32, size=32),
    ),
)
val_cfg = dict(type='FeatureEvalLoop', bank=dict(split='train'))
val_evaluator = dict(
    knn=dict(type='WeightedKNN', k=20, temperature=0.07),
    # Segmentation into background and ten classes by frozen patch features, to monitor dense quality during pretraining.
    dense=dict(
        type='DenseProbe',
        train=dict(
            data_root='data/shapes', img_dir='train', mask_dir='semantic/train', size=64, num_classes=11, max_images=300
        ),
        val=dict(img_dir='val', mask_dir='semantic/val', max_images=100),
        bank_size=2000,
    ),
)
