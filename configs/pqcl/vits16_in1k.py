"""PQCL, ViT-S/16, ImageNet-1k, 100 epochs, 2 x 224 crops + 1 query crop of 96 x 96, total batch 512.

    tools/dist_train.sh configs/pqcl/vits16_in1k.py 8

The settings are those of the command in the authors' code (Sherrylone/PQCL); they published no numbers for it. Not yet run
by us.

Two details of that code are probably mistakes, so we do not reproduce them: query positions are not flipped with their view,
and the second view has the color settings of the first. To reproduce them:

    --cfg-options model.data_preprocessor.flips=False \\
        train_dataloader.dataset.transform.global_2.blur=1.0 train_dataloader.dataset.transform.global_2.solarize=0.0

That code uses fp32; we use bf16 on a GPU (``--amp fp32`` restores fp32).
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/models/dino_vits16.py',
    '../_base_/schedules/dino_800e.py',
]

model = dict(
    type='PQCL',
    backbone=dict(type='PositionQueryViT', query_keys='image+queries'),
    head=dict(out_dim=8192),
    data_preprocessor=dict(type='QueryBoxPreprocessor', flips=True),
    cls_weight=1.0,
    patch_weight=1.0,
    query_weight=1.0,
    loss_patch=dict(student_temp=0.1, center_momentum=0.9),
    loss_query=dict(student_temp=0.1, center_momentum=0.9),
)
mask = dict(type='BlockMasking', patch_size=16, ratio=(0.0, 0.3), spread=(0.0, 0.2), start_epoch=0)
train_dataloader = dict(
    batch_size=64,
    dataset=dict(
        transform=dict(
            num_local=0,
            num_query=1,
            query_size=96,
            query_scale=(0.05, 0.25),
            query_source='image',
            query_photometric='shared',
            global_2=dict(blur=0.1, solarize=0.2),
            mask=mask,
        )
    ),
)
train_cfg = dict(max_epochs=100)
optim_wrapper = dict(max_norm=3.0)
default_hooks = dict(schedule=dict(min_lr=1e-6))
