"""SelfPatch with a vision transformer of 0.45 M parameters and 8-pixel patches, for photographs on two CPU cores: 60 epochs.

    python tools/train.py configs/selfpatch/vitmini8_small.py

The twin of ``configs/dino/vitmini8_small.py``; only real neighbors count among its 6 x 6 and 3 x 3 patches. Run by us in
part: see docs/comparison.md.
"""

_base_ = ['../dino/vitmini8_small.py']

model = dict(
    type='SelfPatch',
    class_attention=dict(wrap=False, init='xavier'),
    patch_head=dict(out_dim=256),
    loss_patch=dict(student_temp=0.1, center_momentum=0.9),
)
