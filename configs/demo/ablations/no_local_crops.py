"""Ablation of the ADCLR demo: two global views only; requires ``--allow-different local_views``."""

_base_ = ['../adclr_vittiny_shapes.py']

train_dataloader = dict(dataset=dict(transform=dict(num_local=0)))
