"""PositionQueryViT: a vision transformer whose query tokens know places and no pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from mmadclr.models.backbones.architectures import arch_options, uses_rope
from mmadclr.models.backbones.query_vit import QueryViT
from mmadclr.models.positions import grid_places, sincos_code
from mmadclr.registry import MODELS


@MODELS.register_module()
class PositionQueryViT(QueryViT):
    """``QueryViT`` with fixed sine-cosine positions, whose queries are the mask token plus the code of their place.

    Sherrylone/PQCL, ``models/pos_transformer.py``. What it stores is a plain ViT with position embeddings that are no longer
    trained, [CLS] having none. Without a mask token (the teacher of PQCL) it takes images alone.

    Args:
        **kwargs: See ``QueryViT``; there has to be a class token, and neither registers nor rotary positions.

    Raises:
        ValueError: The width is no multiple of 4, or there are other tokens than [CLS] and patches, or other positions.
    """

    def __init__(self, arch: str | dict = 'vit_small_patch16_224', mask_token: bool = True, **kwargs) -> None:
        if uses_rope(arch_options(arch, rope=kwargs.get('rope'))):
            raise ValueError(
                'PositionQueryViT: its queries are codes of places, which rope does not have: rope=False, and the arch of '
                'a backbone with a position embedding'
            )
        super().__init__(arch, mask_token=mask_token, **kwargs)
        if self.cls_token is None or self.reg_token is not None:
            raise ValueError(
                'PositionQueryViT: its positions are those of [CLS] and patches: class_token=True, reg_tokens=0'
            )
        self.pos_embed.requires_grad_(False)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        super().reset_parameters()
        code = sincos_code(grid_places(*self.patch_embed.grid_size), self.embed_dim)
        self.pos_embed.zero_()
        self.pos_embed[0, -len(code) :] = code

    def embed_queries(self, places: Tensor) -> Tensor:
        """Places (B, Q, T, 2) in patches of the view -> query tokens (B, Q, T, D).

        Raises:
            ValueError: There is no mask token.
        """
        if self.mask_token is None:
            raise ValueError('this backbone has no mask token, so it has no queries either: encode crops as images')
        return self.mask_token + sincos_code(places, self.embed_dim).to(self.mask_token.dtype)
