"""Linear classification, ViT-S/16, ImageNet-1k: DINO's protocol, [CLS] of the last four blocks, one learning rate.

    tools/dist_train.sh configs/benchmarks/classification/linear_vits16_in1k.py 8 --cfg-options pretrained=PATH
    tools/dist_test.sh configs/benchmarks/classification/linear_vits16_in1k.py work_dirs/linear_vits16_in1k/epoch_100.pth 8

8 GPUs x 128 images, SGD .001 per 256 images, 100 epochs: facebookresearch/dino, ``eval_linear.py``. The result is that of
the last epoch; DINO's script reports the best of all epochs on the validation set. Top-1 reported by others: ADCLR 77.5 (its
paper), DINO 77.0. Not yet run by us.
"""

_base_ = [
    '../../_base_/models/classifier_vits16.py',
    '../../_base_/datasets/imagenet_classification.py',
    '../../_base_/schedules/linear_100e.py',
    '../../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(frozen_stages=12, cls_blocks=4),
    head=dict(in_channels=4 * 384, init_cfg=dict(type='Normal', layer='Linear', std=0.01, bias=0.0)),
)
