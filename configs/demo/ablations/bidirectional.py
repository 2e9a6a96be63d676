"""Ablation of the ADCLR demo: image tokens read query tokens too: the control that the paper reports to collapse."""

_base_ = ['../adclr_vittiny_shapes.py']

model = dict(backbone=dict(query_keys='image+queries', bidirectional=True))
