"""Mask R-CNN, ViT-S/16, COCO 1x: the protocol named in the ADCLR table, as published by SelfPatch.

    tools/dist_train.sh configs/benchmarks/coco/mask-rcnn_vits16_fpn_1x.py 8 --cfg-options pretrained=PATH

8 GPUs x 1 image, AdamW 5e-5, 12 epochs, no layer decay, drop path .05, blocks 3, 5, 7 and 11 without final norm. Source:
alinlab/SelfPatch, ``detection/configs/selfpatch/mask_rcnn_vit_small_12_p16_1x_coco.py``, with a warm-up of 1000 iterations.
Reported by others, box / mask AP on val2017: ADCLR 44.3 / 39.7 (its abstract, detector inferred), SelfPatch 42.1 / 38.5,
DINO 40.8 / 37.3 (both from SelfPatch's detection README). Not yet run by us.

This config uses 6 heads, as in pretraining. The published config sets 8: the weights load without an error, but the
attention is different (``mask-rcnn_vits16-8heads_fpn_1x.py``). A SelfPatch checkpoint requires
``model.backbone.class_token=False``.
"""

_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../../_base_/datasets/coco_instance.py',
    '../../_base_/schedules/coco_1x.py',
    '../../_base_/detection_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmadclr.DenseViT',
        arch='vit_small_patch16_224',
        img_size=224,  # positions keep the grid of pretraining and are resized for each image
        drop_path_rate=0.05,
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
    neck=[
        dict(type='mmadclr.ViTPyramid', embed_dim=384),
        dict(type='FPN', in_channels=[384] * 4, out_channels=256, num_outs=5),
    ],
)
optim_wrapper = dict(
    optimizer=dict(lr=5e-5),
    paramwise_cfg=dict(
        custom_keys={name: dict(decay_mult=0.0) for name in ('pos_embed', 'cls_token', 'norm')},
    ),
)
auto_scale_lr = dict(enable=True, base_batch_size=8)
randomness = dict(diff_rank_seed=True)  # drop path differs between processes
