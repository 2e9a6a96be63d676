"""Ablation of ADCLR ViT-S/16: two global views only; it is unknown whether the paper used local crops."""

_base_ = ['../vits16_in1k.py']

train_dataloader = dict(dataset=dict(transform=dict(num_local=0)))
