"""Ablation of ADCLR ViT-S/16: query tokens also attend to all query tokens, as in the code that the authors released."""

_base_ = ['../vits16_in1k.py']

model = dict(backbone=dict(query_keys='image+queries'))
