"""Fine-tuning on photographs (100 classes), with the small network of ``configs/adclr/vitmini8_small.py``.

    python tools/train.py configs/benchmarks/small/finetune_photos.py --cfg-options pretrained=PATH data_root=DIR

For 4,672 + 1,170 images in data/images/{train,val}: AdamW with layer decay, 30 epochs of 73 steps, crops, flips and label
smoothing. A network of 0.45 M parameters does not need Mixup or RandAugment. Minutes on one CPU core.
"""

_base_ = [
    '../../_base_/models/classifier_vits16.py',
    '../../_base_/datasets/photos_classification.py',
    '../../_base_/schedules/finetune_200e.py',
    '../../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=96, depth=4, num_heads=4, patch_size=8),
        img_size=48,
        init='xavier',
        drop_path_rate=0.05,
    ),
    head=dict(
        num_classes=100,
        in_channels=96,
        loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=2e-5, bias=0.0),
    ),
)
train_cfg = dict(max_epochs=30)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=3, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-3, by_epoch=True, begin=3, end=30, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=64)
