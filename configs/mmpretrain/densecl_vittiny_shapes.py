"""DenseCL of mmpretrain with our data and hooks on generated 32-pixel images, with a ViT instead of its ResNet.

    python tools/train.py configs/mmpretrain/densecl_vittiny_shapes.py

The ViT has no [CLS] token: DenseCL compares patches and their mean. The queue length must be a multiple of the total batch.
We have run it only for a few steps, in the tests.
"""

_base_ = ['./mae_vittiny_shapes.py']

arch = dict(embed_dims=64, num_layers=3, num_heads=4, feedforward_channels=256)
model = dict(
    _delete_=True,
    type='mmpretrain.DenseCL',
    queue_len=4096,
    feat_dim=64,
    momentum=0.01,
    data_preprocessor=dict(type='mmadclr.MMPretrainPreprocessor', num_views=2),
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch={**arch},
        img_size=32,
        patch_size=8,
        with_cls_token=False,
        out_type='featmap',
    ),
    neck=dict(type='mmpretrain.DenseCLNeck', in_channels=64, hid_channels=128, out_channels=64),
    head=dict(type='mmpretrain.ContrastiveHead', loss=dict(type='mmpretrain.CrossEntropyLoss'), temperature=0.2),
)
