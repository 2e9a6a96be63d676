"""Ablation of the ADCLR demo: query crops of 1 to 5 % of the image."""

_base_ = ['../adclr_vittiny_shapes.py']

train_dataloader = dict(dataset=dict(transform=dict(query_scale=(0.01, 0.05))))
