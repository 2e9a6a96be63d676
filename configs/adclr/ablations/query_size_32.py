"""Ablation of ADCLR ViT-S/16: query crops of 32 x 32 pixels, which are four tokens each."""

_base_ = ['../vits16_in1k.py']

train_dataloader = dict(dataset=dict(transform=dict(query_size=32)))
