"""Ablation of ADCLR ViT-S/16: query crops cut out of the first global view instead of anywhere in the image."""

_base_ = ['../vits16_in1k.py']

train_dataloader = dict(dataset=dict(transform=dict(query_source='view')))
