"""Ablation of ADCLR ViT-S/16: ten query crops, the default, to complete the series 0, 1, 5, 10, 20."""

_base_ = ['../vits16_in1k.py']

train_dataloader = dict(dataset=dict(transform=dict(num_query=10)))
