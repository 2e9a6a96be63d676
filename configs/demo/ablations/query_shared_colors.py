"""Ablation of the ADCLR demo: colors of a query crop drawn once for both views, so that copying pixels helps."""

_base_ = ['../adclr_vittiny_shapes.py']

train_dataloader = dict(dataset=dict(transform=dict(query_photometric='shared')))
