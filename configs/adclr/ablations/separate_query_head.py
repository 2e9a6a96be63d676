"""Ablation of ADCLR ViT-S/16: query tokens have a separate head."""

_base_ = ['../vits16_in1k.py']

model = dict(shared_head=False)
