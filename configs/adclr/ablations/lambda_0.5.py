"""Ablation of ADCLR ViT-S/16: query loss with weight 0.5."""

_base_ = ['../vits16_in1k.py']

model = dict(query_weight=0.5)
