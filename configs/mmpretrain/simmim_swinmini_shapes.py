"""SimMIM of mmpretrain with our data and hooks on generated 32-pixel images, with the masks of our iBOT.

    python tools/train.py configs/mmpretrain/simmim_swinmini_shapes.py

mmpretrain implements SimMIM only for Swin transformers. Evaluate its checkpoints with mmpretrain: our k-NN, probes and dense
configs read only plain ViTs. Each patch is masked separately, not in units of 32 pixels. We have run it only for a few
steps, in the tests.
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
