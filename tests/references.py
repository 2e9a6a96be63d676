"""Slow reference implementations that several tests share: float64, explicit sums, no fused operation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cubic_weights(old: int, new: int, scale: float | None = None, antialias: bool = False) -> Tensor:
    """Matrix (new, old) of bicubic resizing along one axis, pixel centers at halves.

    Plain: Keys' kernel with a = -0.75, border values repeated; ``scale`` in place of new / old moves the sampling points.
    Antialiased: a = -0.5, the kernel widened when shrinking, cut off at the border and normed (Pillow's way).
    """
    a = -0.5 if antialias else -0.75
    step = 1 / scale if scale else old / new
    width = max(step, 1.0) if antialias else 1.0

    def kernel(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    weights = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        center = (i + 0.5) * step - 0.5
        for j in range(math.floor(center - 2 * width), math.ceil(center + 2 * width) + 1):
            if antialias and not 0 <= j < old:
                continue
            weights[i, min(max(j, 0), old - 1)] += kernel((j - center) / width)
    return weights / weights.sum(1, keepdim=True) if antialias else weights


def resized_positions(pos_embed: Tensor, stored: tuple, grid: tuple, num_prefix: int = 1, rule: str = 'plain') -> Tensor:
    """Positions (1, p + h*w, D) of a ``stored`` grid for another one.

    Rules: 'plain' (by size), 'dino' (by scale factors of size + 0.1), 'size' (by size, antialiased).
    """
    down, across = (
        cubic_weights(old, new, (new + 0.1) / old if rule == 'dino' else None, antialias=rule == 'size')
        for old, new in zip(stored, grid, strict=True)
    )
    prefix, positions = pos_embed.double()[0].split((num_prefix, stored[0] * stored[1]))
    resized = torch.einsum('yh,xw,hwd->yxd', down, across, positions.unflatten(0, stored))
    return torch.cat((prefix, resized.flatten(0, 1)))[None]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight + bias


def vit_tokens(state: dict[str, Tensor], images: Tensor, positions: Tensor, num_heads: int) -> list[Tensor]:
    """Tokens (B, p + N, D) of a pre-norm vision transformer after every block, none of them final-normed."""
    kernel = state['patch_embed.proj.weight']
    patches = F.unfold(images, kernel.shape[-1], stride=kernel.shape[-1]).transpose(1, 2)
    x = patches @ kernel.flatten(1).T + state['patch_embed.proj.bias']
    if 'cls_token' in state:
        x = torch.cat((state['cls_token'].expand(len(x), -1, -1), x), dim=1)
    x, outputs = x + positions, []
    for i in range(1 + max(int(name.split('.')[1]) for name in state if name.startswith('blocks.'))):
        block = {name.removeprefix(f'blocks.{i}.'): t for name, t in state.items() if name.startswith(f'blocks.{i}.')}

        def linear(inputs: Tensor, name: str, block: dict = block) -> Tensor:
            return inputs @ block[f'{name}.weight'].T + block[f'{name}.bias']

        heads = linear(layer_norm(x, block['norm1.weight'], block['norm1.bias']), 'attn.qkv').chunk(3 * num_heads, -1)
        read = [
            (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
            for q, k, v in zip(heads[:num_heads], heads[num_heads:-num_heads], heads[-num_heads:], strict=True)
        ]
        x = x + linear(torch.cat(read, -1), 'attn.proj')
        hidden = linear(layer_norm(x, block['norm2.weight'], block['norm2.bias']), 'mlp.fc1')
        x = x + linear(hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2, 'mlp.fc2')
        outputs.append(x)
    return outputs
