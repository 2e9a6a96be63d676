"""SelfPatch, ViT-B/16, ImageNet-1k, 300 epochs, 2 x 224 + 8 x 96 crops, total batch 1024.

    tools/dist_train.sh configs/selfpatch/vitb16_in1k.py 8

The authors published no ViT-B. Settings that depend on the size (learning rate, clipping, number of epochs with a frozen
last layer) are those of DINO's ``vitb16_in1k.py``, all others those of ``vits16_in1k.py``. Not yet run by us.
"""

_base_ = ['./vits16_in1k.py']

model = dict(backbone=dict(arch='vit_base_patch16_224'))
optim_wrapper = dict(optimizer=dict(lr=7.5e-4), max_norm=0.3)
default_hooks = dict(schedule=dict(min_lr=2e-6, freeze_last_layer_epochs=3))
