"""Ablation of the ADCLR demo: the student's query token predicts the teacher's of the same view, not of the other."""

_base_ = ['../adclr_vittiny_shapes.py']

model = dict(loss_query=dict(pairing='same-view'))
