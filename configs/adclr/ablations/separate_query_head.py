"""Ablation of ADCLR ViT-S/16: query tokens have a head of their own."""

_base_ = ['../vits16_in1k.py']

model = dict(shared_head=False)
