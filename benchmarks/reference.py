"""A training step in the structure of the published code, on the parameters of our own model: the form we compare with.

Explicit softmax attention with a mask, one backbone pass a resolution, a loop over pairs of views that computes every
softmax anew, K-wide centers, and loops over tensors with a fetched number each for clipping and the teacher. Written for
this purpose after facebookresearch/dino (``main_dino.py``, ``utils.py``) and Sherrylone/PQCL, with ADCLR's query term.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from mmadclr.models.backbones.query_vit import QueryViT


def attention(attn: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """All scores as a tensor, query columns hidden by a mask."""
    b, n, d = x.shape
    q, k, v = attn.qkv(x).reshape(b, n, 3, attn.num_heads, d // attn.num_heads).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(-2, -1)) * attn.scale
    if mask is not None:
        scores = scores.masked_fill(~mask, float('-inf'))
    return attn.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, d))


def backbone(vit: QueryViT, images: Tensor, crops: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """[CLS] (B, D) and query tokens (B, Q, D)."""
    x, layout = vit.embed(images, crops)
    mask = layout.mask(x.shape[1], x.device) if x.shape[1] > layout.num_image else None
    for block in vit.blocks:
        x = x + attention(block.attn, block.norm1(x), mask)
        x = x + block.mlp(block.norm2(x))
    x = vit.norm(x)
    return x[:, 0], x[:, layout.num_image :]


class PairLoop:
    """Loss of one kind of token and its center, pair of views by pair."""

    def __init__(self, out_dim: int, device: str, student_temp: float = 0.1, teacher_temp: float = 0.04) -> None:
        self.center = torch.zeros(1, out_dim, device=device)
        self.student_temp, self.teacher_temp = student_temp, teacher_temp

    def __call__(self, student: Tensor, teacher: Tensor, num_student: int) -> Tensor:
        """Logits (views * rows, K) of student and teacher (two views)."""
        targets = ((teacher - self.center) / self.teacher_temp).softmax(dim=-1).detach().chunk(2)
        outputs = (student / self.student_temp).chunk(num_student)
        pairs = [(u, v) for u, v in product(range(2), range(num_student)) if u != v]
        terms = [(-targets[u] * outputs[v].log_softmax(dim=-1)).sum(dim=-1).mean() for u, v in pairs]
        self.center = self.center * 0.9 + teacher.mean(dim=0, keepdim=True) * 0.1
        return sum(terms) / len(terms)


def project(network: nn.ModuleDict, views: list[Tensor], crops: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Logits of [CLS] of all views, and of the query tokens of the first two, which share a resolution."""
    outputs = [backbone(network['backbone'], torch.cat(views[:2]), crops)]
    if len(views) > 2:
        outputs.append(backbone(network['backbone'], torch.cat(views[2:])))
    cls = head(network['head'], torch.cat([output[0] for output in outputs]))
    return cls, None if crops is None else head(network['head'], outputs[0][1].flatten(0, 1))


def head(module: nn.Module, x: Tensor) -> Tensor:
    return logits_of(module.last_layer, nn.functional.normalize(module.mlp(x), dim=-1))


def logits_of(prototypes: nn.Module, x: Tensor) -> Tensor:
    """Logits (rows, K), by way of the effective weight, as the old-style ``torch.nn.utils.weight_norm`` makes it."""
    return nn.functional.linear(x, torch._weight_norm(prototypes.weight_v, prototypes.weight_g, 0))


class ReferenceStep:
    """Forward, backward, clipping, AdamW and teacher update; parameters and start are those of ``model``.

    Args:
        model: Student and teacher.
        lr, max_norm: Of AdamW, and of every gradient.
        dtype: Of autocast; None for single precision.
        scaler: For the loss, which fp16 needs; as published.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        max_norm: float,
        dtype: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.model, self.max_norm = model, max_norm
        self.dtype, self.scaler = dtype, scaler or torch.amp.GradScaler(enabled=False)
        weight = model.student['head'].last_layer.weight_v
        self.loss_cls, self.loss_query = (PairLoop(len(weight), str(weight.device)) for _ in range(2))
        parameters = [p for p in model.student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=lr)

    def loss(self, global_views: Tensor, local_views: Tensor, query_crops: Tensor) -> Tensor:
        views = [*global_views.unbind(1), *local_views.unbind(1)]
        crops = torch.cat(query_crops.unbind(1)) if query_crops.shape[2] else None
        with torch.no_grad():
            teacher_cls, teacher_query = project(self.model.teacher, views[:2], crops)
        student_cls, student_query = project(self.model.student, views, crops)
        loss = self.loss_cls(student_cls, teacher_cls, len(views))
        return loss if crops is None else loss + self.loss_query(student_query, teacher_query, 2)

    def __call__(self, **views: Tensor) -> float:
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, dtype=self.dtype, enabled=self.dtype is not None):
            loss = self.loss(**views)
        value = loss.item()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        clip(self.model.student, self.max_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        move_teacher(self.model.teacher, self.model.student, self.model.teacher_momentum)
        return value


def clip(student: nn.Module, max_norm: float) -> list[float]:
    """Norm of every gradient, fetched; the gradient scaled where it is too long."""
    norms = []
    for parameter in student.parameters():
        if parameter.grad is not None:
            norm = parameter.grad.norm(2)
            norms.append(norm.item())
            coefficient = max_norm / (norm + 1e-6)
            if coefficient < 1:
                parameter.grad.mul_(coefficient)
    return norms


@torch.no_grad()
def move_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
        old.mul_(momentum).add_((1 - momentum) * new.detach())
