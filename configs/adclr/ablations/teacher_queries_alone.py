"""Ablation of ADCLR ViT-S/16: the teacher encodes each query crop alone, as in the code that the authors released."""

_base_ = ['../vits16_in1k.py']

model = dict(teacher_queries='alone')
