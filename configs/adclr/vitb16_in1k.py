"""ADCLR, ViT-B/16, ImageNet-1k, 400 epochs, 2 x 224 + 10 x 96 crops + 10 query crops of 16 x 16.

    tools/dist_train.sh configs/adclr/vitb16_in1k.py 8

The paper reports linear 79.8, fine-tuned 84.0. Not yet run by us. ``vits16_in1k.py`` says what is reconstructed.
"""

_base_ = ['./vits16_in1k.py']

model = dict(backbone=dict(arch='vit_base_patch16_224'), head=dict(norm_last_layer=True))
train_cfg = dict(max_epochs=400)
optim_wrapper = dict(optimizer=dict(lr=7.5e-4), max_norm=0.3)
default_hooks = dict(schedule=dict(min_lr=2e-6, teacher_temp_warmup_epochs=50, freeze_last_layer_epochs=3))
