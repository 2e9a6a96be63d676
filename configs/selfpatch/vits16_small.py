"""SelfPatch, ViT-S/16, for thousands of images: 96-pixel views, 1024 prototypes, a faster and sharper teacher, 200 epochs.

    python tools/train.py configs/selfpatch/vits16_small.py

Reads class folders data/images/{train,val}; labels serve k-NN only. The twin of ``configs/dino/vits16_small.py``. Views
have 6 x 6 and 3 x 3 patches; across the edges of the small ones all patches would touch each other, so only real neighbors
count. Not yet run by us.
"""

_base_ = ['../dino/vits16_small.py']

model = dict(
    type='SelfPatch',
    patch_head=dict(out_dim=1024),
    class_attention=dict(wrap=False),
    loss_patch=dict(student_temp=0.1, center_momentum=0.9),
)
