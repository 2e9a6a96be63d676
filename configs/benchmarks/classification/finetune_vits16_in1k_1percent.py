"""Semi-supervised fine-tuning, ViT-S/16, with the labels of 1 % of ImageNet-1k.

    tools/dist_train.sh configs/benchmarks/classification/finetune_vits16_in1k_1percent.py 8 --cfg-options pretrained=PATH

data/imagenet/1percent.txt is SimCLR's list (google-research/simclr, ``imagenet_subsets/1percent.txt``), 12,811 bare names;
lines ``<class>/<name>`` do as well. 1000 epochs and a rate of 5e-6 are iBOT's; iBOT starts from the first layer of the
projector, we from [CLS] of the backbone, and all else is that of ``finetune_vits16_in1k.py``. Not yet run by us.
"""

_base_ = ['./finetune_vits16_in1k.py']

train_dataloader = dict(dataset=dict(list_file='1percent.txt'))
train_cfg = dict(max_epochs=1000, val_interval=50)
optim_wrapper = dict(optimizer=dict(lr=5e-6))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.2, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.2, by_epoch=True, begin=20, end=1000, convert_to_iter_based=True),
]
