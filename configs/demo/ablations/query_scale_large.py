"""Ablation of the ADCLR demo: query crops of 25 to 50 % of the image."""

_base_ = ['../adclr_vittiny_shapes.py']

train_dataloader = dict(dataset=dict(transform=dict(query_scale=(0.25, 0.5))))
