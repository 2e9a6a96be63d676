"""The published methods written out in float64: networks as functions of a state dict, losses pair by pair, plain AdamW.

Slow on purpose, and free of anything of the package: what it computes is compared with the package. Names of weights are the
published ones. Shape legend: B images, N patches, D channels, K prototypes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from references import layer_norm, resized_positions
from torch import Tensor

State = Mapping[str, Tensor]


# --- networks --------------------------------------------------------------------------------------------------------------


def part(state: State, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def linear(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f'{name}.weight'].T + state[f'{name}.bias']


def norm(x: Tensor, state: State, name: str) -> Tensor:
    return layer_norm(x, state[f'{name}.weight'], state[f'{name}.bias'])


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def mlp(x: Tensor, block: State) -> Tensor:
    return linear(gelu(linear(x, block, 'mlp.fc1')), block, 'mlp.fc2')


def attention(x: Tensor, block: State, num_heads: int, allow: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(B, S, D) -> the same, and the softmax (B, heads, S, S); row may read column where ``allow`` (S, S)."""
    thirds = linear(x, block, 'attn.qkv').chunk(3 * num_heads, -1)
    maps, read = [], []
    for q, k, v in zip(thirds[:num_heads], thirds[num_heads:-num_heads], thirds[-num_heads:], strict=True):
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        weights = scores.exp() if allow is None else scores.exp() * allow
        maps.append(weights / weights.sum(-1, keepdim=True))
        read.append(maps[-1] @ v)
    return linear(torch.cat(read, -1), block, 'attn.proj'), torch.stack(maps, 1)


def transformer_block(x: Tensor, block: State, num_heads: int, allow: Tensor | None = None) -> Tensor:
    x = x + attention(norm(x, block, 'norm1'), block, num_heads, allow)[0]
    return x + mlp(norm(x, block, 'norm2'), block)


def blocks_of(state: State, name: str = 'blocks') -> list[dict[str, Tensor]]:
    count = 1 + max(int(key.split('.')[1]) for key in state if key.startswith(f'{name}.'))
    return [part(state, f'{name}.{number}.') for number in range(count)]


def patch_tokens(state: State, images: Tensor) -> Tensor:
    kernel = state['patch_embed.proj.weight']
    patches = F.unfold(images, kernel.shape[-1], stride=kernel.shape[-1]).transpose(1, 2)
    return patches @ kernel.flatten(1).T + state['patch_embed.proj.bias']


def positions(state: State, height: int, width: int) -> Tensor:
    """As DINO adds them to a view of height x width patches: as stored, if the view is square and of as many patches."""
    stored, num_prefix = state['pos_embed'], int('cls_token' in state)
    side = round((stored.shape[1] - num_prefix) ** 0.5)
    if height == width == side:
        return stored
    return resized_positions(stored, (side, side), (height, width), num_prefix, 'dino')


def embed(state: State, images: Tensor, mask: Tensor | None = None) -> Tensor:
    """Tokens entering the first block; patches under ``mask`` (B, h, w) are replaced before the positions are added."""
    x, patch = patch_tokens(state, images), state['patch_embed.proj.weight'].shape[-1]
    if mask is not None:
        x = torch.where(mask.flatten(1)[..., None], state['masked_embed'], x)
    if 'cls_token' in state:
        x = torch.cat((state['cls_token'].expand(len(x), -1, -1), x), dim=1)
    return x + positions(state, *(side // patch for side in images.shape[2:]))


def run_blocks(state: State, x: Tensor, num_heads: int, allow: Tensor | None = None) -> list[Tensor]:
    """Tokens after every block, through the final norm where there is one."""
    outputs = []
    for block in blocks_of(state):
        x = transformer_block(x, block, num_heads, allow)
        outputs.append(norm(x, state, 'norm') if 'norm.weight' in state else x)
    return outputs


def vit(state: State, images: Tensor, num_heads: int, mask: Tensor | None = None) -> Tensor:
    return run_blocks(state, embed(state, images, mask), num_heads)[-1]


def last_attention(state: State, images: Tensor, num_heads: int) -> Tensor:
    x = embed(state, images)
    *before, last = blocks_of(state)
    for block in before:
        x = transformer_block(x, block, num_heads)
    return attention(norm(x, last, 'norm1'), last, num_heads)[1]


def prototypes(state: State, name: str = 'last_layer') -> Tensor:
    v = state[f'{name}.weight_v']
    return state[f'{name}.weight_g'] * v / v.square().sum(1, keepdim=True).sqrt()


def head(state: State, x: Tensor, name: str = 'last_layer') -> Tensor:
    """Logits (..., K): an MLP, unit length, prototypes of given norms."""
    numbers = sorted(int(key.split('.')[1]) for key in state if key.startswith('mlp.') and key.endswith('weight'))
    for number in numbers:
        x = linear(x, state, f'mlp.{number}')
        x = x if number == numbers[-1] else gelu(x)
    return x / x.square().sum(-1, keepdim=True).sqrt() @ prototypes(state, name).T


def class_attention(state: State, tokens: Tensor, num_heads: int) -> Tensor:
    """Tokens (B, S, D) -> what a class token (B, D) reads of them and of itself in all blocks, final-normed."""
    cls = state['cls_token'].expand(len(tokens), -1, -1)
    for block in blocks_of(state, 'cls_blocks'):
        sequence = norm(torch.cat((cls, tokens), 1), block, 'norm1')
        q = linear(sequence[:, :1], block, 'attn.q').chunk(num_heads, -1)
        k, v = (linear(sequence, block, f'attn.{name}').chunk(num_heads, -1) for name in 'kv')
        scores = [a @ b.transpose(1, 2) / math.sqrt(a.shape[-1]) for a, b in zip(q, k, strict=True)]
        read = [s.softmax(-1) @ values for s, values in zip(scores, v, strict=True)]
        cls = cls + linear(torch.cat(read, -1), block, 'attn.proj')
        cls = cls + mlp(norm(cls, block, 'norm2'), block)
    return norm(cls, state, 'norm')[:, 0]


def around(height: int, width: int) -> Tensor:
    """(N, 8) the neighbors of every patch of a grid whose opposite edges touch, ascending."""
    steps = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]
    rows = [
        sorted((row + down) % height * width + (column + right) % width for down, right in steps)
        for row in range(height)
        for column in range(width)
    ]
    return torch.tensor(rows)


def selfpatch_teacher(state: State, patches: Tensor, num_heads: int, k: int) -> tuple[Tensor, Tensor]:
    """Class token and summaries (B, 1 + N, D) of the k most similar neighbors; (B, N) how far number k is from the next."""
    side = round(patches.shape[1] ** 0.5)
    neighbors, directions = around(side, side), patches / patches.square().sum(-1, keepdim=True).sqrt()
    similar = torch.einsum('bnd,bned->bne', directions, directions[:, neighbors])
    ranked, order = similar.sort(-1, descending=True)
    rows = [class_attention(state, patches, num_heads)]
    for patch in range(patches.shape[1]):
        chosen = neighbors[patch][order[:, patch, :k]]
        rows.append(class_attention(state, torch.stack([x[i] for x, i in zip(patches, chosen, strict=True)]), num_heads))
    return torch.stack(rows, 1), ranked[..., k - 1] - ranked[..., k]


def selfpatch_student(state: State, patches: Tensor, num_heads: int) -> Tensor:
    return torch.cat((class_attention(state, patches, num_heads)[:, None], norm(patches, state, 'norm')), 1)


# --- losses ----------------------------------------------------------------------------------------------------------------


def cross_entropy(teacher: Tensor, student: Tensor, center: Tensor, teacher_temp: float, student_temp: float) -> Tensor:
    """Logits (..., K) -> (...)."""
    target = ((teacher - center).detach() / teacher_temp).softmax(-1)
    return -(target * (student / student_temp).log_softmax(-1)).sum(-1)


def cross_view(teacher: Tensor, student: Tensor, center: Tensor, *temps: float) -> Tensor:
    """Views of logits (V, ..., K): mean over all pairs of unequal views, of their means."""
    pairs = [(u, v) for u in range(len(teacher)) for v in range(len(student)) if u != v]
    return sum(cross_entropy(teacher[u], student[v], center, *temps).mean() for u, v in pairs) / len(pairs)


def masked_patches(teacher: Tensor, student: Tensor, masks: Tensor, center: Tensor, *temps: float) -> Tensor:
    """(V, B, N, K) and masks (V, B, N): mean over the hidden patches of an image, over images, over views."""
    terms = []
    for taught, learned, hidden in zip(teacher.flatten(0, 1), student.flatten(0, 1), masks.flatten(0, 1), strict=True):
        costs = cross_entropy(taught, learned, center, *temps)
        terms.append(sum(costs[hidden]) / max(int(hidden.sum()), 1) if hidden.any() else 0 * costs.sum())
    return sum(terms) / len(terms)


def moved(center: Tensor, teacher: Tensor, momentum: float) -> Tensor:
    return momentum * center + (1 - momentum) * teacher.detach().flatten(0, -2).mean(0)


# --- schedules and steps ---------------------------------------------------------------------------------------------------


def warmed_up(first: float, last: float, warmup: int, total: int) -> list[float]:
    """A straight line of ``warmup`` points that contains both ends, then the second."""
    line = [first + (last - first) * i / max(warmup - 1, 1) for i in range(warmup)]
    return line + [last] * (total - warmup)


def cosine(first: float, last: float, total: int, warmup: int = 0, start: float = 0.0) -> list[float]:
    rest = total - warmup
    wave = [last + (first - last) * (1 + math.cos(math.pi * i / rest)) / 2 for i in range(rest)]
    return warmed_up(start, first, warmup, warmup) + wave


class PlainAdamW:
    """With the published recipe of a step: each tensor clipped by itself, frozen ones untouched, decay of matrices alone."""

    def __init__(self, parameters: dict[str, Tensor], clip: float) -> None:
        self.parameters, self.clip = parameters, clip
        self.moments = {name: [0, torch.zeros_like(p), torch.zeros_like(p)] for name, p in parameters.items()}

    @staticmethod
    def decays(name: str, parameter: Tensor) -> bool:
        return parameter.ndim > 1 and not name.endswith('.bias')

    def step(self, gradients: dict[str, Tensor], lr: float, weight_decay: float, frozen: Sequence[str]) -> None:
        for name, gradient in gradients.items():
            if any(word in name for word in frozen):
                continue
            parameter, moments = self.parameters[name], self.moments[name]
            gradient = gradient * min(1.0, self.clip / (gradient.norm().item() + 1e-6))
            moments[0] += 1
            moments[1] = 0.9 * moments[1] + 0.1 * gradient
            moments[2] = 0.999 * moments[2] + 0.001 * gradient**2
            mean, square = moments[1] / (1 - 0.9 ** moments[0]), moments[2] / (1 - 0.999 ** moments[0])
            decay = weight_decay if self.decays(name, parameter) else 0.0
            with torch.no_grad():
                parameter.mul_(1 - lr * decay).sub_(lr * mean / (square.sqrt() + 1e-8))
