"""Ablation of ADCLR ViT-S/16: each view has its own colors of a query crop, so that copying pixels does not help."""

_base_ = ['../vits16_in1k.py']

train_dataloader = dict(dataset=dict(transform=dict(query_photometric='per_view')))
