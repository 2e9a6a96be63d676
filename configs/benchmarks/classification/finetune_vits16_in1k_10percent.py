"""Semi-supervised fine-tuning, ViT-S/16, with the labels of 10 % of ImageNet-1k.

    tools/dist_train.sh configs/benchmarks/classification/finetune_vits16_in1k_10percent.py 8 --cfg-options pretrained=PATH

As ``finetune_vits16_in1k_1percent.py``, with SimCLR's list of 128,116 images in data/imagenet/10percent.txt. Not yet run by
us.
"""

_base_ = ['./finetune_vits16_in1k.py']

train_dataloader = dict(dataset=dict(list_file='10percent.txt'))
train_cfg = dict(max_epochs=1000, val_interval=50)
optim_wrapper = dict(optimizer=dict(lr=5e-6))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.2, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.2, by_epoch=True, begin=20, end=1000, convert_to_iter_based=True),
]
