"""PQCL, ViT-S/16, for thousands of images: 96-pixel views, 1024 prototypes, a faster and sharper teacher, 200 epochs.

    python tools/train.py configs/pqcl/vits16_small.py

Reads class folders data/images/{train,val}; labels serve k-NN only. The twin of ``configs/dino/vits16_small.py`` with
iBOT's masks and one query crop of 3 x 3 patches; it keeps the local views, which PQCL has not. Not yet run by us.
"""

_base_ = ['../dino/vits16_small.py']

model = dict(
    type='PQCL',
    backbone=dict(type='PositionQueryViT', query_keys='image+queries'),
    data_preprocessor=dict(type='QueryBoxPreprocessor', flips=True),
    loss_patch=dict(student_temp=0.1, center_momentum=0.9),
    query_weight=1.0,
    loss_query=dict(student_temp=0.1, center_momentum=0.9),
)
mask = dict(type='BlockMasking', patch_size=16, ratio=(0.0, 0.3), spread=(0.0, 0.2))
train_dataloader = dict(dataset=dict(transform=dict(mask=mask, num_query=1, query_size=48, query_scale=(0.05, 0.3))))
