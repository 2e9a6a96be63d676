"""Semantic FPN, ViT-S/16, ADE20K, 40k iterations, as released by the authors of ADCLR for their later method (PQCL).

    tools/dist_train.sh configs/benchmarks/ade20k/semantic-fpn_vits16-8heads_512_40k.py 8 --cfg-options pretrained=PATH

Differences from ``semantic-fpn_vits16_512_40k.py``: a real pyramid of blocks 3, 5, 7 and 11, 8 attention heads for weights
trained with 6, 8 GPUs x 2 images. Positions for 512 x 512 pixels and single precision are the same. Source: Sherrylone/PQCL,
``evaluation/semantic_segmentation/configs/fpn/vit_small_ade20k.py``. Not yet run by us.
"""

_base_ = ['./semantic-fpn_vits16_512_40k.py']

model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=384, depth=12, num_heads=8, patch_size=16),
        out_indices=(3, 5, 7, 11),
        init_cfg=dict(allow=['num_heads']),
    ),
    neck=[
        dict(type='mmadclr.ViTPyramid', embed_dim=384),
        dict(type='FPN', in_channels=[384] * 4, out_channels=256, num_outs=4),
    ],
)
train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(base_batch_size=16)
