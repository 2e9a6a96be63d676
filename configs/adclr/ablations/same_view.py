"""Ablation of ADCLR ViT-S/16: student query tokens predict teacher query tokens of the same view, not of the other."""

_base_ = ['../vits16_in1k.py']

model = dict(loss_query=dict(pairing='same-view'))
