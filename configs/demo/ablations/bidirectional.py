"""Ablation of the ADCLR demo: image tokens read query tokens too: the control that the paper reports to collapse.

The backbone then has query tokens read each other as well, so compare it with ``query_keys_queries.py``, which differs in
``bidirectional`` alone.
"""

_base_ = ['../adclr_vittiny_shapes.py']

model = dict(backbone=dict(query_keys='image+queries', bidirectional=True))
