"""PQCL, ViT-S/16, thousands of images, 200 epochs: 96-pixel views, 1024 prototypes, low teacher momentum and temperature.

    python tools/train.py configs/pqcl/vits16_small.py

Reads class folders in data/images/{train,val}; labels are used only for k-NN. Same as ``configs/dino/vits16_small.py``, plus
iBOT's masks and one query crop of 3 x 3 patches. It keeps local views, which PQCL does not have. Not yet run by us.
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
