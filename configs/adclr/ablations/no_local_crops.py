"""Ablation of ADCLR ViT-S/16: two global views only; whether the paper used local crops is not known."""

_base_ = ['../vits16_in1k.py']

train_dataloader = dict(dataset=dict(transform=dict(num_local=0)))
