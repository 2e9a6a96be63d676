"""ADCLR that continues from public weights on a folder of images: DINO and the query term, with an anchor to the weights.

    mmadclr adapt --weights PATH --data my_images --method adclr

That command chooses sizes, batch and length. Every number is a starting point, not measured: docs/adapt.md.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/adapt_images.py',
    '../_base_/models/adapt_dino.py',
    '../_base_/schedules/adapt.py',
]

model = dict(type='ADCLR', query_weight=1.0, loss_query=dict(student_temp=0.1, center_momentum=0.9))
train_dataloader = dict(dataset=dict(transform=dict(num_query=4, query_scale=(0.05, 0.25), query_photometric='per_view')))
