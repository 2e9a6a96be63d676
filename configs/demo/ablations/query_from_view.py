"""Ablation of the ADCLR demo: query crops from the first global view instead of from anywhere in the image."""

_base_ = ['../adclr_vittiny_shapes.py']

train_dataloader = dict(dataset=dict(transform=dict(query_source='view')))
