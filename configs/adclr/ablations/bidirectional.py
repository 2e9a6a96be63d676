"""Ablation of ADCLR ViT-S/16: image tokens also attend to query tokens, a control that collapses according to the paper.

In this mode query tokens attend to each other as well. The right baseline is therefore ``query_keys_queries.py``, which
differs only in ``bidirectional``.
"""

_base_ = ['../vits16_in1k.py']

model = dict(backbone=dict(query_keys='image+queries', bidirectional=True))
