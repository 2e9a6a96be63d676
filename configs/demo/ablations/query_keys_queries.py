"""Ablation of the ADCLR demo: query tokens also attend to all query tokens, as in the code that the authors released."""

_base_ = ['../adclr_vittiny_shapes.py']

model = dict(backbone=dict(query_keys='image+queries'))
