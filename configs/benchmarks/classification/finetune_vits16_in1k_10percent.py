"""Semi-supervised fine-tuning, ViT-S/16, with the labels of 10 % of ImageNet-1k.

    tools/dist_train.sh configs/benchmarks/classification/finetune_vits16_in1k_10percent.py 8 --cfg-options pretrained=PATH

Same as ``finetune_vits16_in1k_1percent.py``, with SimCLR's list of 128,116 images in data/imagenet/10percent.txt. Not yet
run by us.
"""

_base_ = ['./finetune_vits16_in1k_1percent.py']

train_dataloader = dict(dataset=dict(list_file='10percent.txt'))
