"""Ablation of ADCLR ViT-S/16: the teacher encodes each query crop by itself, as in the released code of the authors."""

_base_ = ['../vits16_in1k.py']

model = dict(teacher_queries='alone')
