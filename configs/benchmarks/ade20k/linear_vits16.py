"""Linear segmentation, ViT-S/16, ADE20K: iBOT's protocol, 1x1 convolution on four feature maps of the frozen backbone.

    tools/dist_train.sh configs/benchmarks/ade20k/linear_vits16.py 4 --cfg-options pretrained=PATH

4 GPUs x 4 images, AdamW 3e-5, 160k iterations. Source: bytedance/ibot,
``evaluation/semantic_segmentation/configs/linear/vit_small_512_ade20k_160k.py`` (8 GPUs x 2 images, also 16 in total). Its
README has a command for ViT-B only; we take the normalization of the feature maps from it. The published head sets a norm
layer but has no layer that uses it; this head is equivalent. We know of no published number for ViT-S. Not yet run by us.
"""

_base_ = [
    '../../_base_/models/upernet_vits16.py',
    '../../_base_/datasets/ade20k_512.py',
    '../../_base_/schedules/poly_160k.py',
    '../../_base_/segmentation_runtime.py',
]

model = dict(
    backbone=dict(frozen_stages=12, drop_path_rate=0.0),
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=[384] * 4,
        in_index=[0, 1, 2, 3],
        input_transform='resize_concat',
        channels=4 * 384,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=150,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=None,
)
auto_scale_lr = dict(enable=True, base_batch_size=16)
