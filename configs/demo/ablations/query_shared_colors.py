"""Ablation of the ADCLR demo: both views have the same colors of a query crop, so that copying pixels helps."""

_base_ = ['../adclr_vittiny_shapes.py']

train_dataloader = dict(dataset=dict(transform=dict(query_photometric='shared')))
