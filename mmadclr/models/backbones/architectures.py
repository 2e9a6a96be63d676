"""Named architectures of vision transformers: sizes and other options of the public backbones."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import timm
import torch
from timm.layers import LayerNorm, SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import nn

SIZES = ('patch_size', 'embed_dim', 'depth', 'num_heads', 'mlp_ratio')
# Options of an architecture other than its sizes, with the values of a plain vision transformer.
PLAIN_OPTIONS = dict(
    ffn='mlp', reg_tokens=0, layer_scale=None, rope=False, qkv_bias=True, norm_eps=1e-6, pos_embed_resize='dino'
)
WIDTHS = {
    'small': dict(embed_dim=384, depth=12, num_heads=6),
    'base': dict(embed_dim=768, depth=12, num_heads=12),
    'large': dict(embed_dim=1024, depth=24, num_heads=16),
    'huge': dict(embed_dim=1280, depth=32, num_heads=20),
    'giant': dict(embed_dim=1536, depth=40, num_heads=24),
    '7b': dict(embed_dim=4096, depth=40, num_heads=32),
}
DINOV2 = dict(layer_scale=1e-5)
REG4_DINOV2 = dict(**DINOV2, reg_tokens=4, pos_embed_resize='size')
DINOV3 = dict(layer_scale=1e-5, reg_tokens=4, rope=dict(rescale_coords=2.0), qkv_bias='qv', norm_eps=1e-5)
SWIGLU = dict(ffn='swiglu')


def _public() -> dict[str, tuple[dict, dict]]:
    """Sizes and options by name, from facebookresearch/dinov2 and dinov3, ``hub/backbones.py``, under timm's names.

    DINOv3 has query and value biases; timm's models of these names omit them.
    """
    found: dict[str, tuple[dict, dict]] = {}
    for name in ('small', 'base', 'large', 'giant'):
        sizes = dict(patch_size=14, **WIDTHS[name], mlp_ratio=8 / 3 if name == 'giant' else 4.0)
        gated = SWIGLU if name == 'giant' else {}
        found[f'vit_{name}_patch14_dinov2'] = sizes, DINOV2 | gated
        found[f'vit_{name}_patch14_reg4_dinov2'] = sizes, REG4_DINOV2 | gated
    for name in ('small', 'base', 'large', 'small_plus', 'large_plus', 'huge_plus', '7b'):
        sizes = dict(patch_size=16, **WIDTHS[name.removesuffix('_plus')], mlp_ratio=2.0 if name == '7b' else 4.0)
        gated = SWIGLU if name.endswith('_plus') or name == '7b' else {}
        found[f'vit_{name}_patch16_dinov3'] = sizes, DINOV3 | gated | (dict(qkv_bias=False) if name == '7b' else {})
    return found


PUBLIC = _public()


def resolve_arch(arch: str | dict | None) -> dict:
    """Sizes of a vision transformer given by name (one of ``PUBLIC`` or a plain timm model), or explicitly.

    Raises:
        ValueError: Unknown name, a model whose weights are not those of a plain ViT, or invalid sizes.
    """
    if isinstance(arch, Mapping):
        return _check_sizes(dict(arch))
    if arch is None:
        raise ValueError('arch=None is read from the file of init_cfg: set init_cfg.checkpoint of the backbone, or an arch')
    if not isinstance(arch, str):
        raise ValueError(
            f'arch={arch!r} must be the name of a timm model, or a dict of sizes (on the command line one by one: '
            'model.backbone.arch.embed_dim=192)'
        )
    return dict(PUBLIC[arch][0] if arch in PUBLIC else _sizes_of_timm(arch))


def arch_options(arch: str | dict, **given: Any) -> dict[str, Any]:
    """Options of an architecture other than its sizes, with the names of ``PLAIN_OPTIONS``.

    Args:
        arch: As for :func:`resolve_arch`.
        given: Options that override those of the architecture, unless None.
    """
    own = PUBLIC[arch][1] if isinstance(arch, str) and arch in PUBLIC else {}
    return {**PLAIN_OPTIONS, **own, **{name: value for name, value in given.items() if value is not None}}


def uses_rope(options: Mapping[str, Any]) -> bool:
    """Whether positions are rotary; ``{}`` means default arguments."""
    return options['rope'] is not None and options['rope'] is not False


def vit_arguments(sizes: dict, own: dict) -> dict:
    """Arguments of timm's ``VisionTransformer`` for the options of an architecture; see :func:`arch_options`."""
    return dict(
        fc_norm=False,
        pos_embed='none' if uses_rope(own) else 'learn',
        reg_tokens=own['reg_tokens'],
        no_embed_class=own['reg_tokens'] > 0,
        init_values=own['layer_scale'] or None,
        qkv_bias=bool(own['qkv_bias']),
        norm_layer=partial(LayerNorm, eps=own['norm_eps']),
        dynamic_img_size=True,
        **ffn_arguments(own['ffn'], sizes['embed_dim'], sizes.get('mlp_ratio', 4.0)),
    )


def ffn_arguments(ffn: str, embed_dim: int, mlp_ratio: float) -> dict[str, Any]:
    """Arguments of timm's ``VisionTransformer`` for feed-forward layers with ``int(embed_dim * mlp_ratio)`` channels.

    ``'swiglu'``: gate and value in one layer, in this order, as in facebookresearch/dinov2, ``layers/swiglu_ffn.py``.

    Raises:
        ValueError: Unknown type.
    """
    check_choice('ffn', ffn, ('mlp', 'swiglu'))
    if ffn == 'mlp':
        return {}
    hidden = 2 * int(embed_dim * mlp_ratio)
    return dict(mlp_layer=SwiGLUPacked, act_layer=nn.SiLU, mlp_ratio=ratio_of(hidden, embed_dim))


def ratio_of(hidden: int, embed_dim: int) -> float:
    """The ratio that timm multiplies by the width and rounds down to obtain ``hidden`` channels."""
    ratio = hidden / embed_dim
    return ratio if int(embed_dim * ratio) == hidden else (hidden + 0.5) / embed_dim


def check_choice(name: str, value: Any, choices: Sequence) -> None:
    """Raises:
    ValueError: The value of an option is not among its choices.
    """
    if value not in choices:
        raise ValueError(f'{name}={value!r}: choose one of {", ".join(map(repr, choices))}')


@cache  # checks ask several times, and timm takes a tenth of a second to build a model, even without memory
def _sizes_of_timm(arch: str) -> dict:
    if not timm.is_model(arch):
        names = [*PUBLIC, *timm.list_models('*vit*'), *timm.list_models('deit*')]
        close = difflib.get_close_matches(arch, list(dict.fromkeys(names)))
        hint = f'; did you mean {" or ".join(close)}?' if close else ''
        raise ValueError(f'arch {arch!r} is not a model of timm {timm.__version__}{hint}')
    with torch.device('meta'):
        model = timm.create_model(arch, num_classes=0)
    if not isinstance(model, VisionTransformer):
        raise ValueError(f'arch {arch!r} is a {type(model).__name__}, not a plain vision transformer')
    block = model.blocks[0]
    sizes = dict(
        patch_size=model.patch_embed.patch_size[0],
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=block.mlp.fc1.out_features / model.embed_dim,
    )
    with torch.device('meta'):
        plain = VisionTransformer(img_size=model.patch_embed.img_size, num_classes=0, weight_init='skip', **sizes)
    differing = _shapes(plain).items() ^ _shapes(model).items()
    if differing:
        parts = ', '.join(sorted({name for name, _ in differing})[:4])
        raise ValueError(f'arch {arch!r} is not a plain ViT with a class token: it differs in {parts}')
    return sizes


def _check_sizes(sizes: dict) -> dict:
    unknown, missing = sizes.keys() - SIZES, {'embed_dim', 'depth', 'num_heads', 'patch_size'} - sizes.keys()
    if unknown or missing:
        problem = f'unknown {", ".join(sorted(unknown))}' if unknown else f'missing {", ".join(sorted(missing))}'
        raise ValueError(f'arch={sizes}: {problem}; accepted: {", ".join(SIZES)}')
    if sizes['embed_dim'] % sizes['num_heads']:
        raise ValueError(f'arch={sizes}: embed_dim must be a multiple of num_heads')
    return sizes


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
