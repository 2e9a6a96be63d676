"""Cross-entropy between teacher and student views, with a centred teacher.

Shape legend: U teacher views, V student views, B images, D channels, K prototypes; token axes may follow B.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from mmengine import dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmadclr.registry import MODELS


class Projection(NamedTuple):
    """What a head makes of tokens, up to the last layer: ``features`` (views, B, ..., D) and the ``prototypes`` to meet.

    The logits are the large part, (views, B, ..., K): the loss asks for them piece by piece.
    """

    features: Tensor
    prototypes: nn.Module

    def logits(self) -> Tensor:
        return self.prototypes(self.features)

    def split(self, images: int) -> list[Projection]:
        """Parts of at most ``images`` images each."""
        return [Projection(part, self.prototypes) for part in self.features.split(images, dim=1)]


def cross_view_pairs(num_teacher: int, num_student: int, device: torch.device | str = 'cpu') -> Tensor:
    """(U, V) matrix of 0 and 1: every teacher view with every *other* student view (DINO, ADCLR)."""
    return 1 - torch.eye(num_teacher, num_student, device=device)


def same_view_pairs(num_teacher: int, num_student: int, device: torch.device | str = 'cpu') -> Tensor:
    """(U, V) matrix of 0 and 1: every teacher view with the same student view."""
    return torch.eye(num_teacher, num_student, device=device)


PAIRINGS = {'cross-view': cross_view_pairs, 'same-view': same_view_pairs}


def paired_cross_entropy(targets: Tensor, log_probs: Tensor, pairs: Tensor) -> Tensor:
    """Mean of ``H(targets[u], probs[v])`` over the pairs (u, v), the images and, where present, the tokens.

    ``targets`` (U, B, ..., K) and ``log_probs`` (V, B, ..., K) sum over K last; ``pairs`` (U, V) holds weights. The
    targets enter linearly, so each student row needs one log-softmax and each teacher view one product, however many
    pairs there are.
    """
    paired = torch.einsum('uv,v...->u...', pairs.to(log_probs.dtype), log_probs)
    per_token = -(targets * paired).sum(dim=-1)
    return per_token.sum(dim=0).mean() / pairs.sum().to(per_token.dtype)


@MODELS.register_module()
class SelfDistillationLoss(nn.Module):
    """DINO's loss for one kind of token (facebookresearch/dino, ``main_dino.py: DINOLoss``).

    ``p_t = softmax((teacher - centre) / teacher_temp)``, ``p_s = softmax(student / student_temp)``, mean cross-entropy
    over the paired views. The centre is a buffer, so it travels with the checkpoint. Where DINO moves it inside every
    forward pass, here :meth:`update_centre` moves it once per optimizer step with the mean over all teacher rows seen
    since, whatever the number of processes and of accumulated batches; for one batch a step that is DINO's rule.

    Args:
        out_dim: Number K of prototypes.
        student_temp: Temperature of the student.
        teacher_temp: Temperature of the teacher; the schedule hook overwrites it every epoch.
        centre_momentum: Share of the old centre kept at an update.
        pairing: ``'cross-view'`` or ``'same-view'``.
        chunk_size: Images whose logits exist at a time, in the forward and in the backward pass, which computes them
            again; same value and gradients. None for all at once. Pays where K is large.

    Raises:
        ValueError: Unknown pairing, or no pair to compare.
    """

    def __init__(
        self,
        out_dim: int,
        student_temp: float = 0.1,
        teacher_temp: float = 0.04,
        centre_momentum: float = 0.9,
        pairing: str = 'cross-view',
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        if pairing not in PAIRINGS:
            raise ValueError(f'pairing={pairing!r}: choose one of {", ".join(map(repr, PAIRINGS))}')
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f'chunk_size={chunk_size}: use a number of images, or None for all at once')
        self.student_temp = student_temp
        self.teacher_temp = teacher_temp
        self.centre_momentum = centre_momentum
        self.pairing = pairing
        self.chunk_size = chunk_size
        self.register_buffer('centre', torch.zeros(out_dim))
        # Sum of teacher rows and, last, their number: one tensor, so one all-reduce.
        self.register_buffer('pending', torch.zeros(out_dim + 1), persistent=False)

    def forward(self, student: Projection, teacher: Projection) -> Tensor:
        """Student (V views) and teacher (U views) -> scalar loss in nats."""
        num_teacher, num_images = teacher.features.shape[:2]
        num_student = len(student.features)
        if not PAIRINGS[self.pairing](num_teacher, num_student).any():
            raise ValueError(f'{self.pairing} pairing of {num_teacher} teacher and {num_student} student views is empty')
        self.remember(teacher)
        if self.chunk_size is None or self.chunk_size >= num_images:
            return self.cross_entropy(student, teacher)
        parts = zip(student.split(self.chunk_size), teacher.split(self.chunk_size), strict=True)
        terms = [(checkpoint(self.cross_entropy, s, t, use_reentrant=False), s.features.shape[1]) for s, t in parts]
        return sum(term * images for term, images in terms) / num_images

    def cross_entropy(self, student: Projection, teacher: Projection) -> Tensor:
        """The loss of some of the images; changes no state."""
        logits, targets = student.logits(), self.targets(teacher)
        with torch.autocast(logits.device.type, enabled=False):
            log_probs = (_at_least_fp32(logits) / self.student_temp).log_softmax(dim=-1)
            pairs = PAIRINGS[self.pairing](len(targets), len(log_probs), logits.device)
            return paired_cross_entropy(targets, log_probs, pairs)

    @torch.no_grad()
    def targets(self, teacher: Projection) -> Tensor:
        """Centred and sharpened teacher probabilities (U, B, ..., K)."""
        return ((_at_least_fp32(teacher.logits()) - self.centre) / self.teacher_temp).softmax(dim=-1)

    @torch.no_grad()
    def remember(self, teacher: Projection) -> None:
        """Adds the teacher's raw logits to what the next centre is made of.

        Prototypes are linear, so the sum of the logits is the image of the sum of the features: no logits are needed.
        """
        if not self.training:
            return
        with torch.autocast(teacher.features.device.type, enabled=False):
            rows = _at_least_fp32(teacher.features).flatten(0, -2)
            self.pending[:-1] += teacher.prototypes(rows.sum(dim=0))
        self.pending[-1] += len(rows)

    @torch.no_grad()
    def update_centre(self) -> None:
        """Moves the centre towards the mean teacher logits since the last update, over all processes."""
        dist.all_reduce(self.pending)
        total, count = self.pending[:-1], self.pending[-1]
        # Without a row since the last update (no queries, say) the centre stays; `where` keeps this free of a sync.
        mean = torch.where(count > 0, total / count.clamp(min=1), self.centre)
        self.centre.lerp_(mean, 1 - self.centre_momentum)
        self.pending.zero_()


def _at_least_fp32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
