"""iBOT, ViT-S/16, ImageNet-1k, 800 epochs, 2 x 224 + 10 x 96 crops, total batch 1024, block-wise masks.

    tools/dist_train.sh configs/ibot/vits16_in1k.py 8

Published by iBOT's authors for this recipe: k-NN 75.2, linear 77.9, fine-tuned 82.3. Not yet run by us. The published code
uses fp16 with loss scaling; we use bf16 on a GPU.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/models/dino_vits16.py',
    '../_base_/schedules/dino_800e.py',
]

model = dict(
    type='IBOT',
    head=dict(out_dim=8192),
    cls_weight=1.0,
    patch_weight=1.0,
    loss_patch=dict(student_temp=0.1, center_momentum=0.9),
)
# Half of the views have no mask; in the others, 10 to 50 % of the patches are masked.
mask = dict(type='BlockMasking', patch_size=16, ratio=(0.0, 0.3), spread=(0.0, 0.2), start_epoch=0)
train_dataloader = dict(dataset=dict(transform=dict(mask=mask)))
optim_wrapper = dict(max_norm=3.0)
default_hooks = dict(schedule=dict(min_lr=1e-6))
