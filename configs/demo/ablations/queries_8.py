"""Ablation of the ADCLR demo: eight query crops instead of four."""

_base_ = ['../adclr_vittiny_shapes.py']

train_dataloader = dict(dataset=dict(transform=dict(num_query=8)))
