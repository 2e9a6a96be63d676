"""iBOT with a vision transformer of 0.45 M parameters and 8-pixel patches, for photographs on two CPU cores: 60 epochs.

    python tools/train.py configs/ibot/vitmini8_small.py

Same as ``configs/dino/vitmini8_small.py``, plus masks over the 6 x 6 patches. We have run part of it: docs/comparison.md.
"""

_base_ = ['../dino/vitmini8_small.py']

model = dict(type='IBOT', loss_patch=dict(student_temp=0.1, center_momentum=0.9))
mask = dict(type='BlockMasking', patch_size=8, ratio=(0.0, 0.3), spread=(0.0, 0.2))
train_dataloader = dict(dataset=dict(transform=dict(mask=mask)))
