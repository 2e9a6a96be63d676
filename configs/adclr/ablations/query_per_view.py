"""Ablation of ADCLR ViT-S/16: colors of a query crop drawn anew for each view, so copying pixels does not solve it."""

_base_ = ['../vits16_in1k.py']

train_dataloader = dict(dataset=dict(transform=dict(query_photometric='per_view')))
