"""Ablation of ADCLR ViT-S/16: no query crops, which is DINO."""

_base_ = ['../vits16_in1k.py']

train_dataloader = dict(dataset=dict(transform=dict(num_query=0)))
