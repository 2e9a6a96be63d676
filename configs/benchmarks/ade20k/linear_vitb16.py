"""Linear segmentation, ViT-B/16, ADE20K: iBOT's protocol, 1x1 convolution on four feature maps of the frozen backbone.

    tools/dist_train.sh configs/benchmarks/ade20k/linear_vitb16.py 8 --cfg-options pretrained=PATH

8 GPUs x 2 images (published: 4 x 4), AdamW 8e-4. Sources: bytedance/ibot, ``evaluation/README.md`` and
``evaluation/semantic_segmentation/configs/linear/vit_base_512_ade20k_160k.py``. Reported by others, mIoU: iBOT 38.3 (its
README). With that code, users who did not resize the position embedding got 18 to 20. Here it is resized when the
checkpoint is loaded, and the loading report says so. Not yet run by us.
"""

_base_ = ['./linear_vits16.py']

model = dict(
    backbone=dict(arch='vit_base_patch16_224'),
    decode_head=dict(in_channels=[768] * 4, channels=4 * 768),
)
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(optimizer=dict(lr=8e-4))
