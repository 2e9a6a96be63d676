"""Ablation of ADCLR ViT-S/16: query crops from the first global view instead of from anywhere in the image."""

_base_ = ['../vits16_in1k.py']

train_dataloader = dict(dataset=dict(transform=dict(query_source='view')))
