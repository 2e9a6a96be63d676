"""Mask R-CNN, ViT-B/16, COCO 1x: the protocol of ``mask-rcnn_vits16_fpn_1x.py`` with the larger network.

    tools/dist_train.sh configs/benchmarks/coco/mask-rcnn_vitb16_fpn_1x.py 8 --cfg-options pretrained=PATH

This combination has not been published; drop path .1 is our choice. Not yet run by us.
"""

_base_ = ['./mask-rcnn_vits16_fpn_1x.py']

model = dict(
    backbone=dict(arch='vit_base_patch16_224', drop_path_rate=0.1),
    neck=[
        dict(type='mmadclr.ViTPyramid', embed_dim=768),
        dict(type='FPN', in_channels=[768] * 4, out_channels=256, num_outs=5),
    ],
)
