"""UperNet, ViT-B/16, ADE20K, 160k iterations: iBOT's protocol, with the overrides of its README.

    tools/dist_train.sh configs/benchmarks/ade20k/upernet_vitb16_512_160k.py 8 --cfg-options pretrained=PATH

8 GPUs x 2 images, AdamW 8e-5, layer decay .65, final norm on all feature maps. Sources: bytedance/ibot,
``evaluation/semantic_segmentation/configs/upernet/vit_base_512_ade20k_160k.py`` and ``evaluation/README.md``. Reported by
others, mIoU: iBOT 50.0 (its README). Not yet run by us.
"""

_base_ = ['./upernet_vits16_512_160k.py']

model = dict(
    backbone=dict(arch='vit_base_patch16_224'),
    neck=dict(embed_dim=768),
    decode_head=dict(in_channels=[768] * 4, channels=768),
    auxiliary_head=dict(in_channels=768),
)
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(optimizer=dict(lr=8e-5), paramwise_cfg=dict(decay_rate=0.65))
