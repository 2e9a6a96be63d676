"""Backbones to export, and files that hold them."""

from pathlib import Path

import torch

from mmadclr.models.backbones.feature_vit import FeatureViT

ARCH = dict(embed_dim=24, depth=2, num_heads=3, patch_size=8)
VARIANTS = {
    'plain': dict(img_size=32),
    'exact_size': dict(img_size=32, pos_embed_resize='size'),
    'not_square': dict(img_size=(32, 48)),
    'dinov2': dict(img_size=32, reg_tokens=4, layer_scale=1.0, pos_embed_resize='size'),
    'layer_scale': dict(img_size=32, layer_scale=1.0),
    'registers': dict(img_size=32, reg_tokens=2, pos_embed_resize='size'),
    'selfpatch': dict(img_size=32, class_token=False, final_norm=False),
}


def build_backbone(variant: str = 'plain', seed: int = 0, **settings) -> FeatureViT:
    """A backbone whose every tensor moves the features."""
    torch.manual_seed(seed)
    model = FeatureViT(**{'arch': ARCH, **VARIANTS[variant], **settings})
    for parameter in model.parameters():
        parameter.data.normal_(std=0.2)
    return model


def write_checkpoint(file: Path, teacher: FeatureViT, student: FeatureViT | None = None, **meta) -> Path:
    """A file as our runs write it, with these backbones."""
    models = {'teacher.backbone.': teacher, 'student.backbone.': student or teacher}
    state = {f'{prefix}{name}': tensor for prefix, model in models.items() for name, tensor in model.state_dict().items()}
    about = dict(
        img_size=teacher.patch_embed.img_size,
        pos_embed_resize=teacher.pos_embed_resize,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
    )
    heads = {f'{prefix}blocks.0.attn': teacher.blocks[0].attn.num_heads for prefix in models}
    torch.save({'state_dict': state, 'meta': dict(architecture=heads, backbone=about, **meta)}, file)
    return file
