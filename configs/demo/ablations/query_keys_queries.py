"""Ablation of the ADCLR demo: a query token reads all query tokens too, as in the released code of the authors."""

_base_ = ['../adclr_vittiny_shapes.py']

model = dict(backbone=dict(query_keys='image+queries'))
