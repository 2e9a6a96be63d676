"""Ablation of the ADCLR demo: student query tokens predict teacher query tokens of the same view, not of the other."""

_base_ = ['../adclr_vittiny_shapes.py']

model = dict(loss_query=dict(pairing='same-view'))
