"""Ablation of ADCLR ViT-S/16: query loss with weight 2."""

_base_ = ['../vits16_in1k.py']

model = dict(query_weight=2.0)
