"""Semi-supervised fine-tuning, ViT-S/16, with the labels of 1 % of ImageNet-1k: iBOT's protocol, which is DeiT's.

    tools/dist_train.sh configs/benchmarks/classification/finetune_vits16_in1k_1percent.py 8 --cfg-options pretrained=PATH

8 GPUs x 128 images, AdamW 5e-6 per 512 images, no layer decay, 1000 epochs, warm-up of 5 from 1e-6, cosine to 1e-5, three
versions of each image per batch, bicubic resizing of test images. Sources: bytedance/ibot, ``evaluation/README.md`` and
``evaluation/semi_supervised/eval_cls.py``. With a batch of 1024, the peak equals the final value, so the learning rate is
constant after the warm-up, as in iBOT. Two differences: iBOT starts from the first layer of the projector, we start from
[CLS] of the backbone; our warm-up changes the learning rate every iteration, that of iBOT every epoch.

data/imagenet/1percent.txt is SimCLR's list (google-research/simclr, ``imagenet_subsets/1percent.txt``), 12,811 file
names; lines of the form ``<class>/<name>`` are accepted as well. Not yet run by us.
"""

_base_ = ['./finetune_vits16_in1k.py']

model = dict(head=dict(init_cfg=dict(std=0.02)))  # at full size
train_dataloader = dict(sampler=dict(type='RepeatAugSampler', num_repeats=3), dataset=dict(list_file='1percent.txt'))
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile', color_type='color', imdecode_backend='pillow'),
            dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
            dict(type='CenterCrop', crop_size=224),
            dict(type='PackInputs'),
        ]
    )
)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1000, val_interval=50)
optim_wrapper = dict(
    _delete_=True,
    type='mmadclr.AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-6, betas=(0.9, 0.999), weight_decay=0.05),
    precision='auto',  # bf16 on a GPU; the published runs used fp16
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    # An absolute minimum, as published: it does not scale with the batch.
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5, end=1000, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=512)
