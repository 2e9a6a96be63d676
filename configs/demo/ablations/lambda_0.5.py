"""Ablation of the ADCLR demo: query loss weighted by 0.5."""

_base_ = ['../adclr_vittiny_shapes.py']

model = dict(query_weight=0.5)
