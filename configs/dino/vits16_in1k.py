"""DINO, ViT-S/16, ImageNet-1k, 800 epochs, 2 x 224 + 10 x 96 crops, total batch 1024.

    tools/dist_train.sh configs/dino/vits16_in1k.py 8

Published by DINO's authors for this recipe: k-NN 74.5, linear 77.0. Not yet run by us. The published runs used fp32; ours
use bf16 on a GPU (``--amp fp32`` restores fp32).
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/models/dino_vits16.py',
    '../_base_/schedules/dino_800e.py',
]
