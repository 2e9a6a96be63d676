"""Cross-entropy between teacher and student views, with a centred teacher.

Shape legend: U teacher views, V student views, B images, K prototypes; further token axes may stand before K.
"""

import torch
from mmengine import dist
from torch import Tensor, nn

from mmadclr.registry import MODELS


def cross_view_pairs(num_teacher: int, num_student: int) -> Tensor:
    """(U, V) matrix of 0 and 1: every teacher view with every *other* student view (DINO, ADCLR)."""
    return 1 - torch.eye(num_teacher, num_student)


def same_view_pairs(num_teacher: int, num_student: int) -> Tensor:
    """(U, V) matrix of 0 and 1: every teacher view with the same student view."""
    return torch.eye(num_teacher, num_student)


PAIRINGS = {'cross-view': cross_view_pairs, 'same-view': same_view_pairs}


def paired_cross_entropy(targets: Tensor, log_probs: Tensor, pairs: Tensor) -> Tensor:
    """Mean of ``H(targets[u], probs[v])`` over the pairs (u, v), the images and, where present, the tokens.

    ``targets`` (U, B, ..., K) and ``log_probs`` (V, B, ..., K) sum over K last; ``pairs`` (U, V) holds weights. The
    targets enter linearly, so each student row needs one log-softmax and each teacher view one product, however many
    pairs there are.
    """
    paired = torch.einsum('uv,v...->u...', pairs.to(log_probs), log_probs)
    per_token = -(targets * paired).sum(dim=-1)
    return per_token.sum(dim=0).mean() / pairs.sum().to(per_token)


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
    ) -> None:
        super().__init__()
        if pairing not in PAIRINGS:
            raise ValueError(f'pairing={pairing!r}: choose one of {", ".join(map(repr, PAIRINGS))}')
        self.student_temp = student_temp
        self.teacher_temp = teacher_temp
        self.centre_momentum = centre_momentum
        self.pairing = pairing
        self.register_buffer('centre', torch.zeros(out_dim))
        # Sum of teacher rows and, last, their number: one tensor, so one all-reduce.
        self.register_buffer('pending', torch.zeros(out_dim + 1), persistent=False)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Student logits (V, B, ..., K) and teacher logits (U, B, ..., K) -> scalar loss in nats."""
        pairs = PAIRINGS[self.pairing](len(teacher), len(student))
        if not pairs.any():
            raise ValueError(f'{self.pairing} pairing of {len(teacher)} teacher and {len(student)} student views is empty')
        with torch.autocast(student.device.type, enabled=False):
            targets = self.teacher_probs(teacher)
            log_probs = (_at_least_fp32(student) / self.student_temp).log_softmax(dim=-1)
            return paired_cross_entropy(targets, log_probs, pairs.to(student.device))

    @torch.no_grad()
    def teacher_probs(self, teacher: Tensor) -> Tensor:
        """Centred and sharpened targets; remembers the raw logits for the next centre."""
        teacher = _at_least_fp32(teacher)
        if self.training:
            rows = teacher.flatten(0, -2)
            self.pending[:-1] += rows.sum(dim=0)
            self.pending[-1] += len(rows)
        return ((teacher - self.centre) / self.teacher_temp).softmax(dim=-1)

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
