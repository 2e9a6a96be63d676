"""How far features have moved from those of another model of the same images.

Shape legend: N rows (images or patches), D and E channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_cka(first: Tensor, second: Tensor, debiased: bool = True) -> float:
    """Linear centered kernel alignment: 1 if features differ by rotation, scale and shift, 0 if they are independent.

    Kornblith et al., *Similarity of neural network representations revisited*, ICML 2019, equation 4. Debiased: with the
    unbiased estimator of HSIC (Song et al., *Feature selection via dependence maximization*, JMLR 2012, theorem 2;
    Nguyen et al., *Do wide and deep networks learn the same things?*, ICLR 2021, equation 3), without which independent
    features of more channels than rows look alike. It may be slightly negative. In double precision, in the memory of
    the features and of D x E products.

    Args:
        first, second: (N, D) and (N, E) features of the same rows.
        debiased: Whether to use the unbiased estimator.

    Returns:
        NaN if the features of a model are constant.

    Raises:
        ValueError: Different numbers of rows, or fewer than 4 (debiased) or 2 rows.
    """
    least = 4 if debiased else 2
    if len(first) != len(second) or len(first) < least:
        raise ValueError(f'CKA of {len(first)} and {len(second)} rows: both must have the same rows, at least {least}')
    first, second = (_centered(rows) for rows in (first, second))
    hsic = _unbiased_hsic if debiased else _plain_hsic
    scale = hsic(first, first) * hsic(second, second)
    return hsic(first, second) / math.sqrt(scale) if scale > 0 else math.nan


def _centered(rows: Tensor) -> Tensor:
    """Shifting features does not change HSIC, but large means would cost precision; nor does scaling change CKA.

    Rows that are equal up to rounding become zero, so that their CKA is undefined.
    """
    rows = rows.double()
    centered = rows - rows.mean(dim=0)
    noise = centered.norm() <= 1e-7 * rows.norm()
    return torch.zeros_like(rows) if noise else centered / centered.norm()


def _plain_hsic(first: Tensor, second: Tensor) -> float:
    return (first.T @ second).square().sum().item()


def _unbiased_hsic(first: Tensor, second: Tensor) -> float:
    """With K the products of rows without the diagonal, of which only row sums and traces are needed."""
    count = len(first)
    lengths = [rows.square().sum(dim=1) for rows in (first, second)]
    sums = [rows @ rows.sum(dim=0) - length for rows, length in zip((first, second), lengths, strict=True)]
    trace = (first.T @ second).square().sum() - lengths[0] @ lengths[1]
    product = sums[0].sum() * sums[1].sum() / ((count - 1) * (count - 2))
    return (trace + product - 2 * (sums[0] @ sums[1]) / (count - 2)).item() / (count * (count - 3))


def row_cosines(first: Tensor, second: Tensor) -> Tensor:
    """(N,) cosines of corresponding rows (N, D); sensitive to rotations, unlike CKA.

    Raises:
        ValueError: The features do not have the same shape.
    """
    if first.shape != second.shape:
        raise ValueError(f'cosines of features {tuple(first.shape)} and {tuple(second.shape)}: shapes must be equal')
    return F.cosine_similarity(first.double(), second.double(), dim=-1)
