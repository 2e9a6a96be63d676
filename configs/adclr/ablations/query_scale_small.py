"""Ablation of ADCLR ViT-S/16: query crops of 1 to 5 % of the image."""

_base_ = ['../vits16_in1k.py']

train_dataloader = dict(dataset=dict(transform=dict(query_scale=(0.01, 0.05))))
