"""Ablation of the ADCLR demo: query crops cut out of the first global view instead of anywhere in the image."""

_base_ = ['../adclr_vittiny_shapes.py']

train_dataloader = dict(dataset=dict(transform=dict(query_source='view')))
