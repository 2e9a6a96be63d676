"""PositionQueryViT: a vision transformer whose query tokens encode positions without pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from mmadclr.models.backbones.architectures import arch_options, uses_rope
from mmadclr.models.backbones.query_vit import QueryViT
from mmadclr.models.positions import grid_places, sincos_code
from mmadclr.registry import MODELS


@MODELS.register_module()
class PositionQueryViT(QueryViT):
    """``QueryViT`` with fixed sine-cosine positions, whose queries are the mask token plus a position code.

    Sherrylone/PQCL, ``models/pos_transformer.py``. Stored as a plain ViT with frozen position embeddings, zero for [CLS].
    Without a mask token (PQCL's teacher) it only accepts images.

    Args:
        **kwargs: See ``QueryViT``; requires a class token, and neither registers nor rotary positions.

    Raises:
        ValueError: The width is not a multiple of 4, or registers, a missing [CLS] or rotary positions.
    """

    def __init__(self, arch: str | dict = 'vit_small_patch16_224', mask_token: bool = True, **kwargs) -> None:
        if uses_rope(arch_options(arch, rope=kwargs.get('rope'))):
            raise ValueError(
                'PositionQueryViT encodes queries by a position embedding, which rope replaces: set rope=False, and the '
                'arch of a backbone with a position embedding'
            )
        super().__init__(arch, mask_token=mask_token, **kwargs)
        if self.cls_token is None or self.reg_token is not None:
            raise ValueError('PositionQueryViT supports only [CLS] and patches: set class_token=True, reg_tokens=0')
        self.pos_embed.requires_grad_(False)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        super().reset_parameters()
        code = sincos_code(grid_places(*self.patch_embed.grid_size), self.embed_dim)
        self.pos_embed.zero_()
        self.pos_embed[0, -len(code) :] = code

    def embed_queries(self, places: Tensor) -> Tensor:
        """Positions (B, Q, T, 2) in patches of the view -> query tokens (B, Q, T, D).

        Raises:
            ValueError: There is no mask token.
        """
        if self.mask_token is None:
            raise ValueError('this backbone has no mask token, so it supports no queries: encode crops as images')
        return self.mask_token + sincos_code(places, self.embed_dim).to(self.mask_token.dtype)
