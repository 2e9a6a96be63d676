"""Ablation of ADCLR ViT-S/16: a query token also attends to the tokens of its own crop."""

_base_ = ['../vits16_in1k.py']

model = dict(backbone=dict(query_keys='image+self'))
