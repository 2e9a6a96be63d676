"""SelfPatch with a vision transformer of 0.45 M parameters and 8-pixel patches, for photographs on two CPU cores: 60 epochs.

    python tools/train.py configs/selfpatch/vitmini8_small.py

Same as ``configs/dino/vitmini8_small.py``, with SelfPatch. Neighborhoods in the 6 x 6 and 3 x 3 patches do not wrap around
the edges. We have run part of it: docs/comparison.md.
"""

_base_ = ['../dino/vitmini8_small.py']

model = dict(
    type='SelfPatch',
    class_attention=dict(wrap=False, init='xavier'),
    patch_head=dict(out_dim=256),
    loss_patch=dict(student_temp=0.1, center_momentum=0.9),
)
