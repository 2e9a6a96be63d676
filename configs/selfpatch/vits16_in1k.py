"""SelfPatch, ViT-S/16, ImageNet-1k, 300 epochs, 2 x 224 + 8 x 96 crops, total batch 1024.

    tools/dist_train.sh configs/selfpatch/vits16_in1k.py 8

Published by SelfPatch's authors, after 200 epochs: COCO Mask R-CNN 42.1 box and 38.5 mask AP, ADE20K Semantic FPN 41.2 mIoU.
The settings are from their code, which trains for 300 epochs by default. Not yet run by us. That code uses fp16 with loss
scaling; we use bf16 on a GPU. To train for 200 epochs, as in the paper:

    tools/dist_train.sh configs/selfpatch/vits16_in1k.py 8 --cfg-options train_cfg.max_epochs=200
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/models/dino_vits16.py',
    '../_base_/schedules/dino_800e.py',
]

model = dict(
    type='SelfPatch',
    head=dict(norm_last_layer=True),
    patch_head=dict(out_dim=4096),
    class_attention=dict(depth=2, num_neighbors=4, wrap=True),
    patch_weight=0.1,
    loss_patch=dict(student_temp=0.1, center_momentum=0.9),
)
train_dataloader = dict(dataset=dict(transform=dict(num_local=8)))
train_cfg = dict(max_epochs=300)
optim_wrapper = dict(max_norm=3.0)
default_hooks = dict(schedule=dict(min_lr=1e-6, teacher_temp=(0.04, 0.04), teacher_temp_warmup_epochs=0))
