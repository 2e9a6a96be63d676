"""Ablation of ADCLR ViT-S/16: image tokens read query tokens too: the control that the paper reports to collapse."""

_base_ = ['../vits16_in1k.py']

model = dict(backbone=dict(query_keys='image+queries', bidirectional=True))
