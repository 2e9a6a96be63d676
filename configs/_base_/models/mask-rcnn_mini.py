"""Mask R-CNN for small images on a CPU: patches of 8 pixels, 48 channels, few proposals, masks of 14 pixels."""

_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py']

channels, strides = 48, [2, 4, 8, 16]
model = dict(
    data_preprocessor=dict(pad_size_divisor=16),
    backbone=dict(
        _delete_=True,
        type='mmadclr.DenseViT',
        arch=dict(embed_dim=64, depth=3, num_heads=4, patch_size=8),
        img_size=32,
        out_indices=(0, 1, 2, 2),
        init='xavier',
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
    neck=[
        dict(type='mmadclr.ViTPyramid', embed_dim=64),
        dict(type='FPN', in_channels=[64] * 4, out_channels=channels, num_outs=4),
    ],
    rpn_head=dict(in_channels=channels, feat_channels=channels, anchor_generator=dict(scales=[6], strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=2), out_channels=channels, featmap_strides=strides, finest_scale=14
        ),
        bbox_head=dict(in_channels=channels, fc_out_channels=256),
        mask_roi_extractor=dict(
            roi_layer=dict(output_size=7, sampling_ratio=2),
            out_channels=channels,
            featmap_strides=strides,
            finest_scale=14,
        ),
        mask_head=dict(
            num_convs=2,
            in_channels=channels,
            conv_out_channels=channels,
            class_agnostic=True,
            norm_cfg=dict(type='GN', num_groups=8),
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=300, max_per_img=50),
        rcnn=dict(sampler=dict(num=32), mask_size=14),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=50), rcnn=dict(max_per_img=20)),
)
