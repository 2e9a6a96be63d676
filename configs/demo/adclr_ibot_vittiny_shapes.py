"""iBOT plus ADCLR's query term, with a vision transformer of 0.16 M parameters on generated 32-pixel images.

    python tools/train.py configs/demo/adclr_ibot_vittiny_shapes.py

Same as ``ibot_vittiny_shapes.py``, plus the four query crops of ``adclr_vittiny_shapes.py``.
"""

_base_ = ['./ibot_vittiny_shapes.py']

model = dict(type='QueryIBOT', query_weight=1.0, loss_query=dict(student_temp=0.1, center_momentum=0.9))
train_dataloader = dict(dataset=dict(transform=dict(num_query=4, query_scale=(0.05, 0.25), query_photometric='per_view')))
