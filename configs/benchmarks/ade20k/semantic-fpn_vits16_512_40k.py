"""Semantic FPN, ViT-S/16, ADE20K, 40k iterations: SelfPatch's protocol, probably that of the ADCLR table.

    tools/dist_train.sh configs/benchmarks/ade20k/semantic-fpn_vits16_512_40k.py 8 --cfg-options pretrained=PATH

8 GPUs x 4 images, AdamW 6e-5, blocks 2, 5, 8 and 11 without final norm, positions stored for 512 x 512 pixels, single
precision, whole-image test. Source: alinlab/SelfPatch, ``segmentation/configs/semfpn_vit-s16_512x512_40k_ade20k.py``, which
does not use mixed precision (``--amp bf16`` is faster). As published, the FPN receives four maps of stride 16, while its
head assumes strides 4 to 32. Reported by others, mIoU: SelfPatch 41.2, DINO 38.3 (SelfPatch's README); ADCLR + 1.0 mIoU over
SelfPatch (its abstract). Not yet run by us.

The config that the authors of ADCLR released is different: ``semantic-fpn_vits16-8heads_512_40k.py``. Results of the two are
not comparable.
"""

_base_ = [
    '../../_base_/models/upernet_vits16.py',
    '../../_base_/datasets/ade20k_512.py',
    '../../_base_/schedules/poly_160k.py',
    '../../_base_/segmentation_runtime.py',
]

norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(out_indices=(2, 5, 8, 11), out_norm=False),
    neck=dict(_delete_=True, type='FPN', in_channels=[384] * 4, out_channels=256, num_outs=4),
    decode_head=dict(
        _delete_=True,
        type='FPNHead',
        in_channels=[256] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=128,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=None,
    test_cfg=dict(_delete_=True, mode='whole'),
)
train_cfg = dict(max_iters=40000, val_interval=4000)
optim_wrapper = dict(
    optimizer=dict(lr=6e-5, weight_decay=0.01),
    precision='fp32',
    paramwise_cfg=dict(
        custom_keys={name: dict(decay_mult=0.0) for name in ('pos_embed', 'cls_token', 'norm')},
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=40000),
]
auto_scale_lr = dict(enable=True, base_batch_size=32)
randomness = dict(diff_rank_seed=True)  # drop path differs between processes
