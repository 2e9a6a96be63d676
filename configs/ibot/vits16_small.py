"""iBOT, ViT-S/16, thousands of images, 200 epochs: 96-pixel views, 1024 prototypes, low teacher momentum and temperature.

    python tools/train.py configs/ibot/vits16_small.py

Reads class folders in data/images/{train,val}; labels are used only for k-NN. Same as ``configs/dino/vits16_small.py``, with
iBOT. Not yet run by us.
"""

_base_ = ['../dino/vits16_small.py']

model = dict(type='IBOT', loss_patch=dict(student_temp=0.1, center_momentum=0.9))
mask = dict(type='BlockMasking', patch_size=16, ratio=(0.0, 0.3), spread=(0.0, 0.2))
train_dataloader = dict(dataset=dict(transform=dict(mask=mask)))
