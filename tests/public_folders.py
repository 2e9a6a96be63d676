"""Folders as transformers writes them, of small backbones with random weights."""

import json

import pytest
import torch

SMALL_DINOV2 = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, image_size=42, patch_size=7, mlp_ratio=2)
HALVES = dict(image_mean=[0.5] * 3, image_std=[0.25] * 3)


def write_folder(folder, registers=0, mask_token=0.0, normalization=HALVES, **sizes):
    """A DINOv2 of random weights that all move its tokens."""
    transformers = pytest.importorskip('transformers')
    name = 'Dinov2WithRegisters' if registers else 'Dinov2'
    own = dict(num_register_tokens=registers) if registers else {}
    torch.manual_seed(0)
    model = getattr(transformers, f'{name}Model')(
        getattr(transformers, f'{name}Config')(**{**SMALL_DINOV2, **own, 'layer_norm_eps': 1e-5, **sizes})
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_((0.5 if 'layer_scale' in name else 0.05) * torch.randn_like(parameter))
        model.embeddings.mask_token.fill_(mask_token)
    model.save_pretrained(folder)
    if normalization is not None:
        (folder / 'preprocessor_config.json').write_text(json.dumps(normalization))
    return folder


def write_dinov3_folder(folder, gated=False):
    """A DINOv3 of random weights, with four registers; ``gated``: with SwiGLU."""
    transformers = pytest.importorskip('transformers')
    sizes = dict(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3, image_size=42, patch_size=7
    )
    options = dict(use_gated_mlp=gated, hidden_act='silu' if gated else 'gelu', num_register_tokens=4)
    torch.manual_seed(0)
    model = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**sizes, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder
