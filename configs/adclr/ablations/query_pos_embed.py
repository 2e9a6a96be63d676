"""Ablation of ADCLR ViT-S/16: query tokens have a position embedding, resized to their crop."""

_base_ = ['../vits16_in1k.py']

model = dict(backbone=dict(query_pos_embed=True))
