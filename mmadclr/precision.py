"""Numerical precision of training and evaluation, selected by name."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16}  # dtypes of autocast; None disables it


def resolve_precision(precision: str) -> str:
    """``'auto'`` -> ``'bf16'`` on a GPU that supports it, else ``'fp32'``.

    Raises:
        ValueError: Unknown name.
    """
    if precision == 'auto':
        return 'bf16' if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else 'fp32'
    check_precision(precision)
    return precision


def check_precision(precision: str) -> None:
    """Raises ValueError for an unknown name."""
    if precision not in ('auto', *PRECISIONS):
        raise ValueError(f"precision={precision!r}: choose 'auto', {', '.join(map(repr, PRECISIONS))}")


def autocast_to(precision: str, device_type: str) -> AbstractContextManager:
    """torch's autocast for one of ``PRECISIONS``; a null context for ``'fp32'``."""
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is None else torch.autocast(device_type, dtype)
