"""DINO, ViT-B/16, ImageNet-1k, 400 epochs, 2 x 224 + 10 x 96 crops, total batch 1024.

    tools/dist_train.sh configs/dino/vitb16_in1k.py 8

Published by DINO's authors for this recipe: k-NN 76.1, linear 78.2. Not yet run by us. The published runs used fp32; ours
use bf16 on a GPU (``--amp fp32`` restores fp32).
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/models/dino_vits16.py',
    '../_base_/schedules/dino_800e.py',
]

model = dict(backbone=dict(arch='vit_base_patch16_224'), head=dict(norm_last_layer=True))
train_cfg = dict(max_epochs=400)
optim_wrapper = dict(optimizer=dict(lr=7.5e-4), max_norm=0.3)
default_hooks = dict(schedule=dict(min_lr=2e-6, teacher_temp_warmup_epochs=50, freeze_last_layer_epochs=3))
