"""ADCLR with a vision transformer of 0.45 M parameters and 8-pixel patches, for photographs on two CPU cores: 60 epochs.

    python tools/train.py configs/adclr/vitmini8_small.py

The network the small real detection and segmentation sets below ``configs/benchmarks`` start from: one can pretrain,
fine-tune and compare with random initialisation in an afternoon without a GPU. Measured: see "Real images" in the README.
"""

_base_ = ['./vits16_small.py']

model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dim=96, depth=4, num_heads=4, patch_size=8), img_size=48, init='xavier'),
    head=dict(out_dim=256, hidden_dim=256, bottleneck_dim=64, init='xavier'),
)
train_dataloader = dict(
    num_workers=1,
    dataset=dict(
        transform=dict(
            global_size=48,
            local_size=24,
            num_local=2,
            query_size=8,
            # Half the strength of DINO's colours: views of 48 pixels have little else to agree on.
            global_1=dict(jitter=0.5, grey=0.1, blur=0.2),
            global_2=dict(jitter=0.5, grey=0.1, solarise=0.0),
            local=dict(jitter=0.5, grey=0.1, blur=0.1),
        )
    ),
)
val_dataloader = dict(num_workers=1, dataset=dict(transform=dict(resize=48, size=48)))
train_cfg = dict(max_epochs=60, val_interval=10)
optim_wrapper = dict(optimizer=dict(lr=6e-3))
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
