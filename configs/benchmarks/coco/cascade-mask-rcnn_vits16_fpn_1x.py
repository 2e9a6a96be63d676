"""Cascade Mask R-CNN, ViT-S/16, COCO 1x: iBOT's protocol, with the overrides of its README for 12 epochs.

    tools/dist_train.sh configs/benchmarks/coco/cascade-mask-rcnn_vits16_fpn_1x.py 8 --cfg-options pretrained=PATH

8 GPUs x 4 images, AdamW 1e-4, layer decay .8, drop path .1, positions stored for 800 x 1008 pixels. Sources: bytedance/ibot,
``evaluation/object_detection/configs/cascade_rcnn/vit_small_giou_4conv1f_coco_3x.py`` and ``evaluation/README.md``; the
warm-up of 500 iterations is from ``schedule_1x.py`` of mmdet 2, the base of that config. The ADCLR abstract has no number
for this protocol. Not yet run by us.
"""

_base_ = [
    'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py',
    '../../_base_/datasets/coco_instance.py',
    '../../_base_/schedules/coco_1x.py',
    '../../_base_/detection_runtime.py',
]

bbox_heads = [
    dict(
        type='ConvFCBBoxHead',
        num_shared_convs=4,
        num_shared_fcs=1,
        in_channels=256,
        conv_out_channels=256,
        fc_out_channels=1024,
        roi_feat_size=7,
        num_classes=80,
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=stds),
        reg_class_agnostic=False,
        reg_decoded_bbox=True,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=10.0),
    )
    for stds in ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmadclr.DenseViT',
        arch='vit_small_patch16_224',
        img_size=(800, 1008),
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint=None),
    ),
    neck=[
        dict(type='mmadclr.ViTPyramid', embed_dim=384),
        dict(type='FPN', in_channels=[384] * 4, out_channels=256, num_outs=5),
    ],
    roi_head=dict(bbox_head=bbox_heads),
)
randomness = dict(diff_rank_seed=True)  # drop path differs between processes
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(constructor='mmadclr.LayerDecayOptimConstructor', paramwise_cfg=dict(decay_rate=0.8))
auto_scale_lr = dict(enable=True, base_batch_size=32)
