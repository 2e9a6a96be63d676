"""ADCLR with a vision transformer of 0.16 M parameters on generated 32-pixel images: minutes on two CPU cores.

    make demo
    python tools/train.py configs/demo/adclr_vittiny_shapes.py

Same as ``dino_vittiny_shapes.py``, plus four query crops of one token each.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/shapes.py',
    '../_base_/models/dino_vittiny.py',
    '../_base_/schedules/demo_50e.py',
]

model = dict(type='ADCLR', query_weight=1.0, loss_query=dict(student_temp=0.1, center_momentum=0.9))
train_dataloader = dict(dataset=dict(transform=dict(num_query=4, query_scale=(0.05, 0.25), query_photometric='per_view')))
