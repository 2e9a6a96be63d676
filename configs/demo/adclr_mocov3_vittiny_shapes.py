"""MoCo v3 plus ADCLR's query term, with a vision transformer of 0.16 M parameters on generated 32-pixel images.

    python tools/train.py configs/demo/adclr_mocov3_vittiny_shapes.py

Same as ``mocov3_vittiny_shapes.py``, plus the four query crops of ``adclr_vittiny_shapes.py``.
"""

_base_ = ['./mocov3_vittiny_shapes.py']

model = dict(query_weight=1.0)
train_dataloader = dict(dataset=dict(transform=dict(num_query=4, query_scale=(0.05, 0.25), query_photometric='per_view')))
