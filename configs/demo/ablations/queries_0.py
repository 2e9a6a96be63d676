"""Ablation of the ADCLR demo: no query crops, which is DINO."""

_base_ = ['../adclr_vittiny_shapes.py']

train_dataloader = dict(dataset=dict(transform=dict(num_query=0)))
