"""PQCL with a vision transformer of 0.45 M parameters and 8-pixel patches, for photographs on two CPU cores: 60 epochs.

    python tools/train.py configs/pqcl/vitmini8_small.py

Same as ``configs/dino/vitmini8_small.py``, plus iBOT's masks and one query crop of 3 x 3 patches. It keeps local views,
which PQCL does not have. We have run part of it: docs/comparison.md.
"""

_base_ = ['../dino/vitmini8_small.py']

model = dict(
    type='PQCL',
    backbone=dict(type='PositionQueryViT', query_keys='image+queries'),
    loss_patch=dict(student_temp=0.1, center_momentum=0.9),
    data_preprocessor=dict(type='QueryBoxPreprocessor', flips=True),
    query_weight=1.0,
    loss_query=dict(student_temp=0.1, center_momentum=0.9),
)
mask = dict(type='BlockMasking', patch_size=8, ratio=(0.0, 0.3), spread=(0.0, 0.2))
train_dataloader = dict(dataset=dict(transform=dict(num_query=1, query_size=24, query_scale=(0.05, 0.3), mask=mask)))
