"""Cross-entropy of self-distillation, value and gradients, without materializing all logits.

Shape legend: U teacher views, V student views, M rows (images x tokens) per view, D channels, K prototypes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class FactoredLogits(NamedTuple):
    """Rows ``x`` (views, M, D) and weight-normed prototypes: ``logits = x (g v / |v|)^T``."""

    x: Tensor
    v: Tensor  # (K, D)
    g: Tensor  # (K, 1)

    def detached(self) -> FactoredLogits:
        """At least single precision, without a graph."""
        return FactoredLogits(*(at_least_fp32(part.detach()) for part in self))

    def norms(self) -> Tensor:
        """|v| (K,)."""
        return self.v.norm(dim=1)


class Settings(NamedTuple):
    """Settings of the loss besides its two sides; see :func:`chunked_cross_entropy`."""

    center: Tensor
    pairs: Tensor
    weights: Tensor | None
    student_temp: float
    teacher_temp: float
    rows: int
    dtype: torch.dtype


def at_least_fp32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def chunked_cross_entropy(
    student: FactoredLogits,
    teacher: FactoredLogits,
    center: Tensor,
    pairs: Tensor,
    student_temp: float,
    teacher_temp: float,
    max_bytes: int,
    weights: Tensor | None = None,
) -> Tensor:
    """``paired_cross_entropy`` of two heads in chunks of rows; same value and gradients as the plain form.

    Memory: gradients of student rows and prototypes, and ``max_bytes`` of logits, independent of batch size and K. The
    gradients are computed in the forward pass while the logits are available, so nothing is computed twice. Every student
    row needs one softmax, because targets enter linearly and are summed first. Matrix products use the autocast
    precision, everything else at least single precision.

    Args:
        student, teacher: The two sides; no gradient flows to the teacher.
        center: (K,), subtracted from the teacher's logits.
        pairs: (U, V) weights.
        student_temp, teacher_temp: Temperatures.
        max_bytes: Of the logits and probabilities held at a time; at least one row of every view is processed.
        weights: (M,) of the rows in the sum over them; by default their mean is used.
    """
    row_bytes = (3 * len(student.x) + len(teacher.x)) * len(center) * center.element_size()
    device = student.x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else at_least_fp32(student.x).dtype
    settings = Settings(center, pairs, weights, student_temp, teacher_temp, max(1, max_bytes // row_bytes), dtype)
    return _ChunkedCrossEntropy.apply(*student, teacher, settings)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Value and gradients in one pass over chunks of rows."""

    @staticmethod
    def forward(ctx, x: Tensor, v: Tensor, g: Tensor, teacher: FactoredLogits, settings: Settings) -> Tensor:
        student = FactoredLogits(x, v, g).detached()
        with torch.autocast(x.device.type, enabled=False):
            total = _Accumulator(student, teacher.detached(), settings)
            for start in range(0, max(1, x.shape[1]), settings.rows):  # zero rows also form a chunk
                total.add(slice(start, start + settings.rows))
            assert total.product is not None  # of the first chunk, which there always is
            gradients = (total.grad_x, *_weight_norm_gradients(total.product, student, total.norms))
        ctx.gradients = tuple(gradient.to(part.dtype) for gradient, part in zip(gradients, (x, v, g), strict=True))
        return total.loss

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError('the chunked loss supports only one backward pass; for a second one set logits_mib=None')
        gradients, ctx.gradients = ctx.gradients, None
        wanted = zip(gradients, ctx.needs_input_grad[:3], strict=True)
        return *(gradient.mul_(upstream) if needed else None for gradient, needed in wanted), None, None


class _Accumulator:
    """Loss and gradients of the chunks so far: ``loss``, ``grad_x`` (V, M, D), and ``product`` (K, D), the
    transposed gradient of the logits times the student's rows.
    """

    def __init__(self, student: FactoredLogits, teacher: FactoredLogits, settings: Settings) -> None:
        self.student, self.teacher, self.settings = student, teacher, settings
        self.v, self.teacher_v = student.v.to(settings.dtype), teacher.v.to(settings.dtype)
        self.norms = student.norms()
        self.scale, self.teacher_scale = student.g[:, 0] / self.norms, teacher.g[:, 0] / teacher.norms()
        self.pairs = settings.pairs.to(student.x.dtype) / settings.pairs.sum()
        self.weights = None if settings.weights is None else settings.weights.to(student.x.dtype)[:, None]
        if self.weights is None:
            self.pairs /= student.x.shape[1]  # avoids a product with equal weights
        self.loss, self.grad_x = student.x.new_zeros(()), torch.empty_like(student.x)
        self.product: Tensor | None = None

    def add(self, part: slice) -> None:
        """Adds the rows ``part`` of every view, with as few temporary arrays as possible."""
        x = self.student.x[:, part].to(self.settings.dtype)
        targets = self.targets(self.teacher.x[:, part].to(self.settings.dtype))
        if self.weights is not None:
            targets.mul_(self.weights[part])
        log_probs = _logits(x, self.v).mul_(self.scale / self.settings.student_temp).log_softmax(-1)
        self.loss -= torch.einsum('vmk,vmk->vm', targets, log_probs).sum()
        grad = log_probs.exp_().mul_(self.target_sums(part)).sub_(targets).div_(self.settings.student_temp)
        grad, rows = grad.flatten(0, 1), x.flatten(0, 1)
        self.product = _add_product(self.product, grad.to(rows.dtype).T, rows)
        self.grad_x[:, part] = (grad.mul_(self.scale).to(rows.dtype) @ self.v).unflatten(0, x.shape[:2])

    def targets(self, x: Tensor) -> Tensor:
        """For every student view, the weighted sum of the targets it is paired with (V, m, K)."""
        logits = _logits(x, self.teacher_v).mul_(self.teacher_scale).sub_(self.settings.center)
        targets = logits.div_(self.settings.teacher_temp).softmax(-1)
        return (self.pairs.T @ targets.flatten(1)).unflatten(1, targets.shape[1:])

    def target_sums(self, part: slice) -> Tensor:
        """Sums of the targets over K, (V, m, 1) or (V, 1, 1)."""
        sums = self.pairs.sum(0)[:, None, None]
        return sums if self.weights is None else sums * self.weights[part]


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a b`` of matrices, in at least single precision; on a GPU without rounding to the operands' precision."""
    low = a.dtype in (torch.float16, torch.bfloat16)
    return torch.mm(a, b, out_dtype=torch.float32) if low and a.is_cuda else at_least_fp32(a @ b)


def _logits(x: Tensor, v: Tensor) -> Tensor:
    """``x v^T`` (views, m, K)."""
    return _product(x.flatten(0, 1), v.T).unflatten(0, x.shape[:2])


def _add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """``total + a b`` in place of ``total``, without a temporary of its size if precisions match."""
    if total is None:
        return _product(a, b)
    return total.addmm_(a, b) if total.dtype == a.dtype else total.add_(_product(a, b))


def _weight_norm_gradients(product: Tensor, student: FactoredLogits, norms: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``v`` and ``g``, from that of the effective weight ``g v / |v|``; overwrites ``product`` (K, D)."""
    norms = norms[:, None]
    along = torch.einsum('kd,kd->k', product, student.v)[:, None] / norms  # the part that changes the length
    product.addcmul_(student.v, along / norms, value=-1).mul_(student.g / norms)
    return product, along
