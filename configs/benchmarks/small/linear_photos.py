"""Linear classification of photographs (100 classes), with the small network of ``configs/adclr/vitmini8_small.py``.

    python tools/train.py configs/benchmarks/small/linear_photos.py --cfg-options pretrained=PATH data_root=DIR

For 4,672 + 1,170 images in data/images/{train,val}. [CLS] of the four blocks, nine learning rates in one run, 30 epochs. The
rate is chosen on 10 % of the training images, which are held out. A few minutes on one CPU core.
"""

_base_ = [
    '../../_base_/models/classifier_vits16.py',
    '../../_base_/datasets/photos_classification.py',
    '../../_base_/schedules/linear_100e.py',
    '../../_base_/classification_runtime.py',
]

held_out_fraction = 0.1
held_out = dict(split='train', part='held_out', held_out_fraction=held_out_fraction)
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=96, depth=4, num_heads=4, patch_size=8),
        img_size=48,
        init='xavier',
        frozen_stages=4,
        cls_blocks=4,
    ),
    head=dict(
        _delete_=True,
        type='mmadclr.LinearSweepHead',
        num_classes=100,
        in_channels=4 * 96,
        learning_rates=[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
    ),
)
train_dataloader = dict(dataset=dict(part='train', held_out_fraction=held_out_fraction))
train_cfg = dict(max_epochs=30)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', momentum=0.9, weight_decay=0.0),
    constructor='mmadclr.LinearSweepOptimConstructor',
)
param_scheduler = dict(T_max=30, end=30)
val_cfg = dict(type='mmadclr.LinearSweepLoop', held_out=held_out)
test_cfg = dict(type='mmadclr.LinearSweepLoop', held_out=held_out, stage='test')
val_evaluator = dict(_delete_=True, type='mmadclr.SweepAccuracy')
test_evaluator = val_evaluator
