"""A folder of images, for weights with patches of 14 pixels; for those of 16: local_size=96, query_size=16.

There is no validation: ``mmadclr adapt`` adds its measures.
"""

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
        data_root='data/images',
        transform=dict(
            type='MultiCrop',
            global_size=224,
            global_scale=(0.32, 1.0),
            local_size=98,
            local_scale=(0.05, 0.32),
            num_local=4,
            query_size=14,
            num_query=0,
        ),
    ),
)
val_dataloader = None
val_cfg = None
val_evaluator = None
