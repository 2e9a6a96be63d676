"""SelfPatch, ViT-S/16, thousands of images, 200 epochs: 96-pixel views, 1024 prototypes, low teacher momentum, temperature.

    python tools/train.py configs/selfpatch/vits16_small.py

Reads class folders in data/images/{train,val}; labels are used only for k-NN. Same as ``configs/dino/vits16_small.py``, with
SelfPatch. Views have 6 x 6 and 3 x 3 patches. Neighborhoods do not wrap around the edges: otherwise all patches of a small
view would be neighbors. Not yet run by us.
"""

_base_ = ['../dino/vits16_small.py']

model = dict(
    type='SelfPatch',
    patch_head=dict(out_dim=1024),
    class_attention=dict(wrap=False),
    loss_patch=dict(student_temp=0.1, center_momentum=0.9),
)
