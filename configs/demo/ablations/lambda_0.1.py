"""Ablation of the ADCLR demo: query loss with weight 0.1."""

_base_ = ['../adclr_vittiny_shapes.py']

model = dict(query_weight=0.1)
