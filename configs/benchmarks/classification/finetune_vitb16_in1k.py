"""Fine-tuning, ViT-B/16, ImageNet-1k: BEiT's recipe with iBOT's settings, from [CLS], 100 epochs.

    tools/dist_train.sh configs/benchmarks/classification/finetune_vitb16_in1k.py 8 --cfg-options pretrained=PATH

Layer decay .65, drop path .2. Learning rate, sources, augmentation and averaged weights: see ``finetune_vits16_in1k.py``.
Top-1 reported by others: ADCLR 84.0 (its paper), iBOT 84.0. Not yet run by us.
"""

_base_ = ['./finetune_vits16_in1k.py']

model = dict(
    backbone=dict(arch='vit_base_patch16_224', drop_path_rate=0.2),
    head=dict(in_channels=768),
)
train_cfg = dict(max_epochs=100)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.65))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-3, by_epoch=True, begin=20, end=100, convert_to_iter_based=True),
]
