"""DINO with a vision transformer of 0.45 M parameters and 8-pixel patches, for photographs on two CPU cores: 60 epochs.

    python tools/train.py configs/dino/vitmini8_small.py

Reads class folders in data/images/{train,val}; labels are used only for k-NN. The configs of the same name in the folders of
other methods differ only in the method, so ``tools/compare.py`` can compare them on photographs.
"""

_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/small.py',
    '../_base_/models/dino_vits16.py',
    '../_base_/schedules/dino_800e.py',
]

model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=96, depth=4, num_heads=4, patch_size=8),
        img_size=48,
        drop_path_rate=0.0,
        init='xavier',
    ),
    head=dict(out_dim=256, hidden_dim=256, bottleneck_dim=64, norm_last_layer=True, init='xavier'),
)
train_dataloader = dict(
    num_workers=1,
    dataset=dict(
        transform=dict(
            global_size=48,
            local_size=24,
            num_local=2,
            query_size=8,
            # Half the strength of DINO's color jitter: apart from color, views of 48 pixels have little in common.
            global_1=dict(jitter=0.5, gray=0.1, blur=0.2),
            global_2=dict(jitter=0.5, gray=0.1, solarize=0.0),
            local=dict(jitter=0.5, gray=0.1, blur=0.1),
        )
    ),
)
val_dataloader = dict(num_workers=1, dataset=dict(transform=dict(resize=48, size=48)))
train_cfg = dict(max_epochs=60, val_interval=10)
optim_wrapper = dict(optimizer=dict(lr=6e-3), max_norm=3.0)
default_hooks = dict(
    checkpoint=dict(interval=10, max_keep_ckpts=1),
    schedule=dict(
        warmup_epochs=3,
        weight_decay=(0.04, 0.04),
        momentum=(0.99, 1.0),
        teacher_temp=(0.025, 0.025),
        teacher_temp_warmup_epochs=0,
        freeze_last_layer_epochs=0,
    ),
)
