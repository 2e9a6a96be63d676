"""Linear classification, ViT-B/16, ImageNet-1k: DINO's protocol, last [CLS] and mean of the patches, one learning rate.

    tools/dist_train.sh configs/benchmarks/classification/linear_vitb16_in1k.py 8 --cfg-options pretrained=PATH

Otherwise the same as ``linear_vits16_in1k.py``. Top-1 reported by others: ADCLR 79.8 (its paper), DINO 78.2. Not yet run by
us.
"""

_base_ = ['./linear_vits16_in1k.py']

model = dict(
    backbone=dict(arch='vit_base_patch16_224', cls_blocks=1, mean_patches=True),
    head=dict(in_channels=2 * 768),
)
