"""Ablation of the ADCLR demo: the teacher is never updated: a control that should learn nothing."""

_base_ = ['../adclr_vittiny_shapes.py']

default_hooks = dict(schedule=dict(momentum=(1.0, 1.0)))
