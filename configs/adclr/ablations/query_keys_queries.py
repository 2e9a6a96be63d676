"""Ablation of ADCLR ViT-S/16: a query token reads all query tokens too, as in the released code of the authors."""

_base_ = ['../vits16_in1k.py']

model = dict(backbone=dict(query_keys='image+queries'))
