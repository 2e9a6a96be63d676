"""Cross-entropy of self-distillation, value and gradients, without materializing all logits.

Shape legend: U teacher views, V student views, M rows (images x tokens) per view, D channels, K prototypes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
        """|v| (K, 1)."""
        return self.v.norm(dim=1, keepdim=True)


class ChunkTerms(NamedTuple):
    """What a chunk adds: ``loss`` () and its gradient with respect to the student's logits (V, m, K)."""

    loss: Tensor
    gradient: Tensor


Terms = Callable[..., ChunkTerms]


class Settings(NamedTuple):
    """Settings of the loss besides its two sides; see :func:`chunked_cross_entropy`."""

    center: Tensor
    pairs: Tensor
    weights: Tensor | None
    student_temp: float
    teacher_temp: float
    rows: int
    dtype: torch.dtype
    terms: Terms


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
    terms: Terms | None = None,
) -> Tensor:
    """``paired_cross_entropy`` of two heads in chunks of rows; same value and gradients as the plain form.

    Memory: gradients of student rows and prototypes, the effective prototypes of both sides, and ``max_bytes`` of logits,
    independent of batch size and K. The gradients are computed in the forward pass while the logits are available, so
    nothing is computed twice. Every student row needs one softmax, because targets enter linearly and are summed first.
    Matrix products use the autocast precision, everything else at least single precision.

    Args:
        student, teacher: The two sides; no gradient flows to the teacher.
        center: (K,), subtracted from the teacher's logits.
        pairs: (U, V) weights.
        student_temp, teacher_temp: Temperatures.
        max_bytes: Of the logits and probabilities held at a time; at least one row of every view is processed.
        weights: (M,) of the rows in the sum over them; by default their mean is used.
        terms: ``chunk_terms``, the default, or ``compiled_terms``.
    """
    row_bytes = (4 * len(student.x) + len(teacher.x)) * len(center) * center.element_size()
    device = student.x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else at_least_fp32(student.x).dtype
    rows = even_chunks(student.x.shape[1], max(1, max_bytes // row_bytes))
    settings = Settings(center, pairs, weights, student_temp, teacher_temp, rows, dtype, terms or chunk_terms)
    return _ChunkedCrossEntropy.apply(*student, teacher, settings)


def even_chunks(number: int, most: int) -> int:
    """Rows of a chunk: at most ``most``, and equally many in all if possible: compiled code is specialized for sizes."""
    fewest = max(1, math.ceil(number / most))
    chunks = next((count for count in range(fewest, 2 * fewest + 1) if number % count == 0), fewest)
    return max(1, math.ceil(number / chunks))


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
    gradient of the effective prototypes ``g v / |v|``.
    """

    def __init__(self, student: FactoredLogits, teacher: FactoredLogits, settings: Settings) -> None:
        self.student, self.teacher, self.settings = student, teacher, settings
        self.norms = student.norms()
        self.prototypes = (student.v * (student.g / self.norms)).to(settings.dtype)
        self.teacher_prototypes = (teacher.v * (teacher.g / teacher.norms())).to(settings.dtype)
        self.pairs = settings.pairs.to(student.x.dtype) / settings.pairs.sum()
        self.weights = None if settings.weights is None else settings.weights.to(student.x.dtype)[:, None]
        if self.weights is None:
            self.pairs /= student.x.shape[1]  # avoids a product with equal weights
        temps = (settings.student_temp, settings.teacher_temp)  # compiled code would be specialized for numbers
        self.student_temp, self.teacher_temp = (student.x.new_full((), temp) for temp in temps)
        self.loss, self.grad_x = student.x.new_zeros(()), torch.empty_like(student.x)
        self.product: Tensor | None = None

    def add(self, part: slice) -> None:
        """Adds the rows ``part`` of every view."""
        x, teacher_x = (rows[:, part].to(self.settings.dtype) for rows in (self.student.x, self.teacher.x))
        loss, grad = self.settings.terms(
            _logits(x, self.prototypes),
            _logits(teacher_x, self.teacher_prototypes),
            self.settings.center,
            self.pairs,
            None if self.weights is None else self.weights[part],
            self.student_temp,
            self.teacher_temp,
            x.dtype,
        )
        self.loss += loss
        grad, rows = grad.flatten(0, 1), x.flatten(0, 1)
        self.product = _add_product(self.product, grad.T, rows)
        self.grad_x[:, part] = (grad @ self.prototypes).unflatten(0, x.shape[:2])


def chunk_terms(
    logits: Tensor,
    teacher_logits: Tensor,
    center: Tensor,
    pairs: Tensor,
    weights: Tensor | None,
    student_temp: Tensor,
    teacher_temp: Tensor,
    dtype: torch.dtype,
) -> ChunkTerms:
    """Loss and gradient of some rows, with as few temporary arrays as possible; overwrites both logits.

    Args:
        logits, teacher_logits: (V, m, K) and (U, m, K).
        center: (K,).
        pairs: (U, V), including the factor of the mean.
        weights: (m, 1), or None.
        student_temp, teacher_temp: ().
        dtype: Of the gradient, for the products that follow.
    """
    targets = _paired_targets(teacher_logits.sub_(center).div_(teacher_temp).softmax(-1), pairs)
    sums = pairs.sum(0)[:, None, None]  # of the targets over K
    if weights is not None:
        targets.mul_(weights)
        sums = sums * weights
    log_probs = logits.div_(student_temp).log_softmax(-1)
    loss = -_sum_of_products(targets, log_probs)
    return ChunkTerms(loss, log_probs.exp_().mul_(sums).sub_(targets).div_(student_temp).to(dtype))


def compiled_terms(**options) -> Terms:
    """``chunk_terms`` compiled: a few passes over the logits instead of two dozen. ``options``: of ``torch.compile``.

    Numbers of views and rows may vary, that of prototypes is part of the code.
    """
    compiled = torch.compile(_terms_of_copies, **options)

    def terms(logits: Tensor, teacher_logits: Tensor, center: Tensor, *rest) -> ChunkTerms:
        for tensor in (logits, teacher_logits, center):
            torch._dynamo.mark_static(tensor, tensor.dim() - 1)
        return compiled(logits, teacher_logits, center, *rest)

    return terms


def _terms_of_copies(logits: Tensor, teacher_logits: Tensor, *rest) -> ChunkTerms:
    """``chunk_terms`` of copies, which are fused into what reads them; overwritten arguments would be written back."""
    return chunk_terms(logits.clone(), teacher_logits.clone(), *rest)


def _paired_targets(targets: Tensor, pairs: Tensor) -> Tensor:
    """For every student view, the weighted sum of the targets (U, m, K) it is paired with (V, m, K)."""
    first, *others = zip(targets, pairs[:, :, None, None], strict=True)
    total = first[0] * first[1]
    for target, weights in others:
        total.addcmul_(target, weights)
    return total


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    """Sum of all ``a b``; on a CPU, row by row without an array of products."""
    return (a * b).sum() if a.is_cuda else torch.einsum('vmk,vmk->vm', a, b).sum()


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
    along = torch.einsum('kd,kd->k', product, student.v)[:, None] / norms  # the part that changes the length
    product.addcmul_(student.v, along / norms, value=-1).mul_(student.g / norms)
    return product, along
