"""ADCLR, ViT-S/16, ImageNet-1k, 800 epochs, 2 x 224 + 10 x 96 crops + 10 query crops of 16 x 16.

    tools/dist_train.sh configs/adclr/vits16_in1k.py 8

The paper reports linear 77.5, COCO Mask R-CNN 44.3 box and 39.7 mask AP. Not yet run by us.

The paper's hyper-parameters are not public, and the code that its authors released trains a later method. All settings
except those of queries are therefore those of DINO, the baseline of the paper. The query settings are our documented
reconstruction: scale and lambda follow the released code, number and size of the crops the wording of the paper. DINO's
released runs used fp32; ours use bf16 on a GPU (``--amp fp32`` restores fp32).
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/models/dino_vits16.py',
    '../_base_/schedules/dino_800e.py',
]

model = dict(
    type='ADCLR',
    backbone=dict(query_keys='image'),
    query_weight=1.0,
    loss_query=dict(student_temp=0.1, center_momentum=0.9),
)
train_dataloader = dict(
    dataset=dict(
        transform=dict(
            num_query=10,
            query_size=16,
            query_scale=(0.05, 0.25),
            query_source='image',
            query_photometric='shared',
        )
    )
)
