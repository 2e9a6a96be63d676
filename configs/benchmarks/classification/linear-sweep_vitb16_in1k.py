"""Linear classification, ViT-B/16, ImageNet-1k: 45 learning rates in one run, as in iBOT.

    tools/dist_train.sh configs/benchmarks/classification/linear-sweep_vitb16_in1k.py 8 --cfg-options pretrained=PATH

Otherwise the same as ``linear-sweep_vits16_in1k.py``, which describes the two accuracies. Top-1 reported by others: ADCLR
79.8 (its paper), iBOT 79.5 (best on val). Not yet run by us.
"""

_base_ = ['./linear-sweep_vits16_in1k.py']

model = dict(
    backbone=dict(arch='vit_base_patch16_224', cls_blocks=1, mean_patches=True),
    head=dict(in_channels=2 * 768),
)
