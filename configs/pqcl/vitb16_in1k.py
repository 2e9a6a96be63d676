"""PQCL, ViT-B/16, ImageNet-1k, 400 epochs, 2 x 224 crops + 1 query crop of 96 x 96, total batch 1024.

    tools/dist_train.sh configs/pqcl/vitb16_in1k.py 16

The authors' code has settings only for ViT-S. Settings that depend on the size are those of iBOT's ``vitb16_in1k.py``, all
others those of ``vits16_in1k.py``. Not yet run by us.
"""

_base_ = ['./vits16_in1k.py']

model = dict(backbone=dict(arch='vit_base_patch16_224'), head=dict(norm_last_layer=True))
train_dataloader = dict(dataset=dict(transform=dict(global_scale=(0.32, 1.0))))
train_cfg = dict(max_epochs=400)
optim_wrapper = dict(optimizer=dict(lr=7.5e-4), max_norm=0.3)
default_hooks = dict(schedule=dict(min_lr=2e-6, teacher_temp_warmup_epochs=50, freeze_last_layer_epochs=3))
