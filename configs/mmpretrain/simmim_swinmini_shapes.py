"""SimMIM of mmpretrain on our data and hooks, generated 32-pixel images; its masks are those iBOT takes.

    python tools/train.py configs/mmpretrain/simmim_swinmini_shapes.py

mmpretrain has SimMIM for Swin transformers only, so its checkpoints are evaluated with mmpretrain: our k-NN, probes and
dense configs read plain ViTs. Masks are drawn patch by patch, not in units of 32 pixels. Run by us for a few steps only, in
the tests.
"""

_base_ = ['./mae_vittiny_shapes.py']

model = dict(
    _delete_=True,
    type='mmpretrain.SimMIM',
    data_preprocessor=dict(type='mmadclr.MMPretrainPreprocessor', num_views=1),
    backbone=dict(
        type='mmpretrain.SimMIMSwinTransformer',
        arch=dict(embed_dims=32, depths=[2, 2], num_heads=[2, 4]),
        img_size=32,
        out_indices=(1,),
        stage_cfgs=dict(block_cfgs=dict(window_size=4)),
    ),
    neck=dict(type='mmpretrain.SimMIMLinearDecoder', in_channels=64, encoder_stride=8),
    head=dict(
        type='mmpretrain.SimMIMHead',
        patch_size=4,
        loss=dict(type='mmpretrain.PixelReconstructionLoss', criterion='L1', channel=3),
    ),
)
mask = dict(type='RandomMasking', patch_size=4, ratio=0.6, spread=0.0)
train_dataloader = dict(dataset=dict(transform=dict(mask=mask)))
