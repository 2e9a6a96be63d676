"""Cross-entropy between teacher and student views, with a centered teacher.

Shape legend: U teacher views, V student views, B images, D channels, K prototypes; token axes may follow B.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Annotated, Any, NamedTuple, Protocol

import torch
from mmengine import dist
from torch import Tensor, nn

from mmadclr.config.components import Place
from mmadclr.config.findings import Finding
from mmadclr.models.losses.chunked_cross_entropy import (
    FactoredLogits,
    at_least_fp32,
    chunk_terms,
    chunked_cross_entropy,
    compiled_terms,
)
from mmadclr.registry import MODELS, ConfigOf

LossConfig = Annotated[dict, ConfigOf('SelfDistillationLoss')]


class Prototypes(Protocol):
    """A weight-normed linear layer, such as ``PrototypeLayer``: (..., D) -> logits (..., K)."""

    @property
    def weight_v(self) -> Tensor:
        """(K, D)."""

    @property
    def weight_g(self) -> Tensor:
        """(K, 1)."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


class ProjectedFeatures(NamedTuple):
    """Output of a head before the last layer: ``features`` (views, B, ..., D), and its ``prototypes``.

    The logits (views, B, ..., K) are much larger: the loss computes them in chunks of rows.
    """

    features: Tensor
    prototypes: Prototypes

    def logits(self) -> Tensor:
        return self.prototypes(self.features)

    def factored_logits(self) -> FactoredLogits:
        """Rows (views, M, D) and the parameters of the weight-normed prototypes."""
        return FactoredLogits(self.features.flatten(1, -2), self.prototypes.weight_v, self.prototypes.weight_g)


def cross_view_pairs(num_teacher: int, num_student: int, device: torch.device | str = 'cpu') -> Tensor:
    """(U, V) matrix of 0 and 1: every teacher view with every *other* student view (DINO, ADCLR)."""
    return 1 - torch.eye(num_teacher, num_student, device=device)


def same_view_pairs(num_teacher: int, num_student: int, device: torch.device | str = 'cpu') -> Tensor:
    """(U, V) matrix of 0 and 1: every teacher view with the same student view."""
    return torch.eye(num_teacher, num_student, device=device)


PAIRINGS = {'cross-view': cross_view_pairs, 'same-view': same_view_pairs}


def paired_cross_entropy(targets: Tensor, log_probs: Tensor, pairs: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of ``H(targets[u], probs[v])`` over pairs (u, v), images and, if present, tokens.

    ``targets`` (U, B, ..., K) and ``log_probs`` (V, B, ..., K) have K last; ``pairs`` (U, V) are weights. The
    targets enter linearly, so each student row needs one log-softmax and each teacher view one product, independent of the
    number of pairs. With ``weights`` (B, ...), images and tokens are summed with these instead.
    """
    paired = torch.einsum('uv,v...->u...', pairs.to(log_probs.dtype), log_probs)
    per_token = -(targets * paired).sum(dim=-1)
    per_row = per_token.sum(dim=0) / pairs.sum().to(per_token.dtype)
    return per_row.mean() if weights is None else (per_row * weights.to(per_row.dtype)).sum()


@MODELS.register_module()
class SelfDistillationLoss(nn.Module):
    """DINO's loss for one kind of token (facebookresearch/dino, ``main_dino.py: DINOLoss``).

    ``p_t = softmax((teacher - center) / teacher_temp)``, ``p_s = softmax(student / student_temp)``, mean cross-entropy
    over the paired views. The center is a buffer, so it is stored in checkpoints. DINO updates it in every
    forward pass; here :meth:`update_center` updates it once per optimizer step with the mean over all teacher rows since
    the last update, over all processes and accumulated batches. With one batch per step this is DINO's rule.

    Args:
        out_dim: Number K of prototypes.
        student_temp: Temperature of the student.
        teacher_temp: Temperature of the teacher; overwritten every epoch by the schedule hook.
        center_momentum: Fraction of the old center kept in an update.
        pairing: ``'cross-view'`` or ``'same-view'``.
        logits_mib: MiB of logits and probabilities held at a time (``chunked_cross_entropy``); does not change value and
            gradients. None keeps all of them for the backward pass: the plain form.

    Raises:
        ValueError: Unknown pairing, or ``logits_mib`` is not positive.
    """

    center: Tensor

    def __init__(
        self,
        out_dim: int,
        student_temp: float = 0.1,
        teacher_temp: float = 0.04,
        center_momentum: float = 0.9,
        pairing: str = 'cross-view',
        logits_mib: float | None = 256,
    ) -> None:
        super().__init__()
        if pairing not in PAIRINGS:
            raise ValueError(f'pairing={pairing!r}: choose one of {", ".join(map(repr, PAIRINGS))}')
        if logits_mib is not None and logits_mib <= 0:
            raise ValueError(f'logits_mib={logits_mib} must be above 0, or None for all logits at once')
        self.student_temp = student_temp
        self.teacher_temp = teacher_temp
        self.center_momentum = center_momentum
        self.pairing = pairing
        self.logits_mib = logits_mib
        self.register_buffer('center', torch.zeros(out_dim))
        self.pending: list[PendingMean] = []
        self.terms = chunk_terms

    @classmethod
    def find_conflicts(cls, place: Place) -> Iterator[Finding]:
        """Invalid temperatures and center momentum."""
        for key in ('student_temp', 'teacher_temp'):
            if place.settings[key] <= 0:
                yield Finding(f'{place.path}.{key}={place.settings[key]} must be above 0')
        momentum = place.settings['center_momentum']
        if not 0 <= momentum <= 1:
            yield Finding(f'{place.path}.center_momentum={momentum} must be in [0, 1]; 1 never updates the center')

    def compile_terms(self, **options) -> None:
        """Compiles what is computed from the logits, which are many times larger than features; see ``torch.compile``."""
        self.terms = compiled_terms(**options)

    def __getstate__(self) -> dict:
        """Without compiled code, like the compiled calls of other modules."""
        return {**super().__getstate__(), 'terms': chunk_terms}

    def forward(
        self,
        student: ProjectedFeatures,
        teacher: ProjectedFeatures,
        weights: Tensor | None = None,
        center_from: ProjectedFeatures | None = None,
    ) -> Tensor:
        """Student (V views) and teacher (U views) -> scalar loss in nats.

        Args:
            student, teacher: Corresponding tokens of the same images.
            weights: (B, ...), of every token in the sum over them; by default their mean is used.
            center_from: Teacher tokens used to update the center; by default those compared with the student.

        Raises:
            ValueError: No pair of views, different tokens on the two sides, or weights that do not match the tokens.
        """
        check_tokens(student.features, teacher.features, weights)
        num_teacher, num_student = len(teacher.features), len(student.features)
        pairs = PAIRINGS[self.pairing](num_teacher, num_student, self.center.device)
        if self.pairing == 'cross-view' and num_teacher == num_student == 1:
            raise ValueError(f'{self.pairing} pairing of {num_teacher} teacher and {num_student} student views is empty')
        if self.training:
            self.pending.append(PendingMean.of(center_from or teacher))
        if self.logits_mib is None:
            return self.plain(student, teacher, pairs, weights)
        return chunked_cross_entropy(
            student.factored_logits(),
            teacher.factored_logits(),
            self.center,
            pairs,
            self.student_temp,
            self.teacher_temp,
            int(self.logits_mib * 2**20),
            None if weights is None else weights.flatten(),
            self.terms,
        )

    def plain(
        self, student: ProjectedFeatures, teacher: ProjectedFeatures, pairs: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Reference form of the loss, with all logits at once."""
        logits, teacher_logits = student.logits(), teacher.logits()
        with torch.autocast(logits.device.type, enabled=False):
            log_probs = (at_least_fp32(logits) / self.student_temp).log_softmax(dim=-1)
            return paired_cross_entropy(self.targets(teacher_logits), log_probs, pairs, weights)

    @torch.no_grad()
    def targets(self, logits: Tensor) -> Tensor:
        """Centered and sharpened teacher probabilities (U, B, ..., K)."""
        return ((at_least_fp32(logits) - self.center) / self.teacher_temp).softmax(dim=-1)

    @torch.no_grad()
    def update_center(self, skipped: Tensor | None = None) -> None:
        """Moves the center toward the mean teacher logits since the last update, over all processes.

        Must be called before the teacher is updated: the mean logits use its prototypes of this step. If ``skipped`` ()
        is 1, those logits are discarded and the center is unchanged, without synchronizing with the device.
        """
        pending, self.pending = self.pending, []
        if pending:
            total = reduce(torch.add, (part.wait() for part in pending))
            with torch.autocast(total.device.type, enabled=False):
                mean = pending[0].prototypes(total[:-1] / total[-1])
            if skipped is not None:
                mean = torch.where(skipped.bool(), self.center, mean)
            self.center.lerp_(mean, 1 - self.center_momentum)


def check_tokens(student: Tensor, teacher: Tensor, weights: Tensor | None) -> None:
    """Raises ValueError unless features (views, B, ..., D) and weights (B, ...) belong to the same tokens."""
    tokens = student.shape[1:-1]
    if teacher.shape[1:-1] != tokens:
        raise ValueError(f'tokens of the student {tuple(tokens)} and of the teacher {tuple(teacher.shape[1:-1])} must match')
    if weights is not None and weights.shape != tokens:
        raise ValueError(f'weights of shape {tuple(weights.shape)} must match the tokens {tuple(tokens)}')


class PendingMean(NamedTuple):
    """The teacher's rows of one forward pass, summed over all processes during the backward pass.

    Prototypes are linear, so the mean of the logits is the projection of the mean of the rows: only D + 1 numbers are
    exchanged instead of K.
    """

    sums: Tensor  # (D + 1,): the sum of the rows and their number
    work: Any
    prototypes: Prototypes

    @classmethod
    @torch.no_grad()
    def of(cls, teacher: ProjectedFeatures) -> PendingMean:
        rows = at_least_fp32(teacher.features.detach()).flatten(0, -2)
        sums = torch.cat((rows.sum(dim=0), rows.new_full((1,), len(rows))))
        work = torch.distributed.all_reduce(sums, async_op=True) if dist.is_distributed() else None
        return cls(sums, work, teacher.prototypes)

    def wait(self) -> Tensor:
        if self.work is not None:
            self.work.wait()
        return self.sums
