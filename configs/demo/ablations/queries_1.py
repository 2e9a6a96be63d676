"""Ablation of the ADCLR demo: one query crop."""

_base_ = ['../adclr_vittiny_shapes.py']

train_dataloader = dict(dataset=dict(transform=dict(num_query=1)))
