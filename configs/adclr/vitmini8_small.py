"""ADCLR with a vision transformer of 0.45 M parameters and 8-pixel patches, for photographs on two CPU cores: 60 epochs.

    python tools/train.py configs/adclr/vitmini8_small.py

The configs in ``configs/benchmarks/small`` fine-tune this network for detection and segmentation. Pretraining, fine-tuning
and the comparison with random initialization take an afternoon without a GPU. Measurements: docs/results.md.
"""

_base_ = ['../dino/vitmini8_small.py']

model = dict(type='ADCLR', query_weight=1.0, loss_query=dict(student_temp=0.1, center_momentum=0.9))
train_dataloader = dict(dataset=dict(transform=dict(num_query=4, query_scale=(0.05, 0.25), query_photometric='per_view')))
