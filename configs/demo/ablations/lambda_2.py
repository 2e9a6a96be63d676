"""Ablation of the ADCLR demo: query loss with weight 2."""

_base_ = ['../adclr_vittiny_shapes.py']

model = dict(query_weight=2.0)
