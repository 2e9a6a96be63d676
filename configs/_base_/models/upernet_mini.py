"""UperNet for small images on a CPU: patches of 8 pixels, 48 channels, no auxiliary head."""

_base_ = ['./upernet_vits16.py']

model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(
        arch=dict(_delete_=True, embed_dim=64, depth=3, num_heads=4, patch_size=8),
        img_size=32,
        out_indices=(0, 1, 2, 2),
        out_norm=False,
        drop_path_rate=0.0,
        init='xavier',
    ),
    neck=dict(embed_dim=64),
    decode_head=dict(in_channels=[64] * 4, channels=48),
    auxiliary_head=None,
    test_cfg=dict(_delete_=True, mode='whole'),
)
