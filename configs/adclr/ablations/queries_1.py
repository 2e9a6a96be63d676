"""Ablation of ADCLR ViT-S/16: one query crop."""

_base_ = ['../vits16_in1k.py']

train_dataloader = dict(dataset=dict(transform=dict(num_query=1)))
