"""PQCL with a vision transformer of 0.16 M parameters on generated 32-pixel images: minutes on two CPU cores.

    python tools/train.py configs/demo/pqcl_vittiny_shapes.py

Same as ``ibot_vittiny_shapes.py``, plus one query crop of 2 x 2 patches. It keeps local views, which PQCL does not have.
"""

_base_ = ['./ibot_vittiny_shapes.py']

model = dict(
    type='PQCL',
    backbone=dict(type='PositionQueryViT', query_keys='image+queries'),
    data_preprocessor=dict(type='QueryBoxPreprocessor', flips=True),
    query_weight=1.0,
    loss_query=dict(student_temp=0.1, center_momentum=0.9),
)
train_dataloader = dict(dataset=dict(transform=dict(num_query=1, query_size=16, query_scale=(0.1, 0.4))))
