"""MAE of mmpretrain with our data and hooks on generated 32-pixel images: a template for other methods of mmpretrain.

    python tools/train.py configs/mmpretrain/mae_vittiny_shapes.py
    python tools/knn.py work_dirs/mae_vittiny_shapes/epoch_50.pth --num-heads 4 --size 32 --resize 32 \\
        --train data/shapes/train --val data/shapes/val

Types of mmpretrain have the prefix ``mmpretrain.``. k-NN during the run supports only our methods; the second command
measures it for a checkpoint. We have run it only for a few steps, in the tests.
"""

_base_ = ['../_base_/default_runtime.py', '../_base_/datasets/shapes.py']

custom_imports = dict(imports=['mmpretrain.models'], allow_failed_imports=False)
arch = dict(embed_dims=64, num_layers=3, num_heads=4, feedforward_channels=256)
model = dict(
    type='mmpretrain.MAE',
    data_preprocessor=dict(type='mmadclr.MMPretrainPreprocessor', num_views=1),
    backbone=dict(type='mmpretrain.MAEViT', arch=arch, img_size=32, patch_size=8, mask_ratio=0.75),
    neck=dict(
        type='mmpretrain.MAEPretrainDecoder',
        num_patches=16,
        patch_size=8,
        in_chans=3,
        embed_dim=64,
        decoder_embed_dim=32,
        decoder_depth=1,
        decoder_num_heads=4,
    ),
    head=dict(
        type='mmpretrain.MAEPretrainHead',
        norm_pix=True,
        patch_size=8,
        loss=dict(type='mmpretrain.PixelReconstructionLoss', criterion='L2'),
    ),
)
train_dataloader = dict(dataset=dict(transform=dict(num_local=0)))
val_dataloader = None
val_cfg = None
val_evaluator = None
train_cfg = dict(type='ResumableEpochLoop', max_epochs=50)
optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(type='AdamW', lr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05),
    precision='auto',
)
auto_scale_lr = dict(enable=True, base_batch_size=256)
default_hooks = dict(
    checkpoint=dict(interval=10, max_keep_ckpts=1),
    monitor=None,  # requires a teacher; this method has none
)
