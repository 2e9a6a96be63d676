"""Cascade Mask R-CNN, ViT-B/16, COCO 1x: iBOT's protocol, with the overrides of its README for 12 epochs.

    tools/dist_train.sh configs/benchmarks/coco/cascade-mask-rcnn_vitb16_fpn_1x.py 8 --cfg-options pretrained=PATH

8 GPUs x 2 images, AdamW 1e-4, layer decay .75, drop path .2, positions stored for 672 x 1092 pixels, warm-up of 500
iterations. Sources: bytedance/ibot, ``evaluation/object_detection/configs/cascade_rcnn/vit_base_giou_4conv1f_coco_3x.py``,
``configs/_base_/models/cascade_mask_rcnn_vit_fpn.py`` beside it, and ``evaluation/README.md``. Not yet run by us.
"""

_base_ = ['./cascade-mask-rcnn_vits16_fpn_1x.py']

model = dict(
    backbone=dict(arch='vit_base_patch16_224', img_size=(672, 1092), drop_path_rate=0.2),
    neck=[
        dict(type='mmadclr.ViTPyramid', embed_dim=768),
        dict(type='FPN', in_channels=[768] * 4, out_channels=256, num_outs=5),
    ],
)
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.75))
auto_scale_lr = dict(base_batch_size=16)
