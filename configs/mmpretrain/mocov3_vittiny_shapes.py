"""MoCo v3 of mmpretrain with our data and hooks on generated 32-pixel images; our own: ``demo/mocov3_vittiny_shapes``.

    python tools/train.py configs/mmpretrain/mocov3_vittiny_shapes.py

A template, like ``mae_vittiny_shapes.py``. We have run it only for a few steps, in the tests.
"""

_base_ = ['./mae_vittiny_shapes.py']

arch = dict(embed_dims=64, num_layers=3, num_heads=4, feedforward_channels=256)
mlp = dict(
    type='mmpretrain.NonLinearNeck',
    hid_channels=128,
    out_channels=64,
    num_layers=2,
    with_bias=False,
    with_last_bn=True,
    with_last_bn_affine=False,
    with_last_bias=False,
    with_avg_pool=False,
)
model = dict(
    _delete_=True,
    type='mmpretrain.MoCoV3',
    base_momentum=0.01,
    data_preprocessor=dict(type='mmadclr.MMPretrainPreprocessor', num_views=2),
    backbone=dict(
        type='mmpretrain.MoCoV3ViT',
        arch={**arch},
        img_size=32,
        patch_size=8,
        stop_grad_conv1=True,
    ),
    neck=dict(in_channels=64, **mlp),
    head=dict(
        type='mmpretrain.MoCoV3Head',
        predictor=dict(in_channels=64, **mlp),
        loss=dict(type='mmpretrain.CrossEntropyLoss'),
        temperature=0.2,
    ),
)
