auto_scale_lr = dict(base_batch_size=64, enable=True)
colours = dict(blur=0.0, brightness=0.3, contrast=0.3, grey=0.0, hue=0.05, jitter=0.5, saturation=0.2, solarise=0.0)
default_hooks = dict(
    checkpoint=dict(interval=1, max_keep_ckpts=-1, minutes=30, type='SafeCheckpointHook'),
    epoch_seed=dict(type='EpochSeedHook'),
    logger=dict(interval=1, type='LoggerHook'),
    monitor=dict(patience=5, type='CollapseMonitorHook'),
    runtime_info=dict(type='LossRecordHook'),
    schedule=dict(
        freeze_last_layer_epochs=0,
        min_lr=1e-05,
        momentum=(
            0.9,
            1.0,
        ),
        teacher_temp=(
            0.025,
            0.025,
        ),
        teacher_temp_warmup_epochs=0,
        type='DistillationScheduleHook',
        warmup_epochs=1,
        weight_decay=(
            0.04,
            0.04,
        ),
    ),
    throughput=dict(type='ThroughputHook'),
    unreadable=dict(max_unreadable=100, type='UnreadableImageHook'),
    watchdog=dict(abort_s=1500, first_s=3600, timeout_s=300, type='WatchdogHook', val_s=7200),
)
default_scope = 'mmadclr'
env_cfg = dict(dist_cfg=dict(backend='nccl'))
experiment_name = 'test_make0_work'
log_processor = dict(by_epoch=True, type='LogProcessor', window_size=50)
mask = dict(
    patch_size=8,
    ratio=(
        0.0,
        0.3,
    ),
    spread=(
        0.0,
        0.2,
    ),
    type='BlockMasking',
)
model = dict(
    backbone=dict(arch=dict(depth=1, embed_dim=12, num_heads=3, patch_size=8), img_size=32, init='xavier', type='QueryViT'),
    head=dict(bottleneck_dim=16, hidden_dim=32, init='xavier', norm_last_layer=True, out_dim=32, type='DINOHead'),
    loss_cls=dict(centre_momentum=0.9, student_temp=0.1),
    loss_patch=dict(centre_momentum=0.9, student_temp=0.1),
    loss_query=dict(centre_momentum=0.9, student_temp=0.1),
    query_weight=1.0,
    type='QueryIBOT',
)
optim_wrapper = dict(
    constructor='SelfDistillationOptimConstructor',
    max_norm=3.0,
    optimizer=dict(lr=0.003, type='AdamW'),
    precision='auto',
    type='SelfDistillationOptimWrapper',
)
randomness = dict(seed=0)
train_cfg = dict(max_epochs=2, type='ResumableEpochLoop', val_interval=100)
train_dataloader = dict(
    batch_size=4,
    collate_fn=dict(type='mmadclr.collate_samples'),
    dataset=dict(
        data_root='data/shapes',
        image_size=32,
        num_train=12,
        num_val=10,
        split='train',
        transform=dict(
            global_1=dict(
                blur=0.0, brightness=0.3, contrast=0.3, grey=0.0, hue=0.05, jitter=0.5, saturation=0.2, solarise=0.0
            ),
            global_2=dict(
                blur=0.0, brightness=0.3, contrast=0.3, grey=0.0, hue=0.05, jitter=0.5, saturation=0.2, solarise=0.0
            ),
            global_scale=(
                0.3,
                1.0,
            ),
            global_size=32,
            local=dict(blur=0.0, brightness=0.3, contrast=0.3, grey=0.0, hue=0.05, jitter=0.5, saturation=0.2, solarise=0.0),
            local_scale=(
                0.1,
                0.4,
            ),
            local_size=16,
            mask=dict(
                patch_size=8,
                ratio=(
                    0.0,
                    0.3,
                ),
                spread=(
                    0.0,
                    0.2,
                ),
                type='BlockMasking',
            ),
            num_local=2,
            num_query=4,
            query=dict(blur=0.0, brightness=0.3, contrast=0.3, grey=0.0, hue=0.05, jitter=0.5, saturation=0.2, solarise=0.0),
            query_photometric='per_view',
            query_scale=(
                0.05,
                0.25,
            ),
            query_size=8,
            type='MultiCrop',
        ),
        type='ShapesDataset',
    ),
    drop_last=True,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(shuffle=True, type='EpochSampler'),
)
val_cfg = dict(bank=dict(split='train'), dense_probe=None, type='FeatureEvalLoop')
val_dataloader = dict(
    batch_size=250,
    collate_fn=dict(type='mmadclr.collate_samples'),
    dataset=dict(
        data_root='data/shapes',
        image_size=32,
        num_train=12,
        num_val=10,
        split='val',
        transform=dict(resize=32, size=32, type='ResizeCentreCrop'),
        type='ShapesDataset',
        with_label=True,
    ),
    num_workers=0,
    sampler=dict(shuffle=False, type='EpochSampler'),
)
val_evaluator = dict(k=5, temperature=0.07, type='WeightedKNN')
visualizer = dict(
    type='Visualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
    ],
)
work_dir = 'work_dirs/old'
