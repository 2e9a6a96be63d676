"""In which precision networks compute, in training and evaluation alike: chosen by name, resolved here."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16}  # what autocast casts to; None: nothing


def resolve_precision(precision: str) -> str:
    """``'auto'`` -> ``'bf16'`` on a GPU that supports it, else ``'fp32'``.

    Raises:
        ValueError: It is not a name of a precision.
    """
    if precision == 'auto':
        return 'bf16' if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else 'fp32'
    check_precision(precision)
    return precision


def check_precision(precision: str) -> None:
    """Raises a ValueError for a name that stands for none."""
    if precision not in ('auto', *PRECISIONS):
        raise ValueError(f"precision={precision!r}: choose 'auto', {', '.join(map(repr, PRECISIONS))}")


def autocast_to(precision: str, device_type: str) -> AbstractContextManager:
    """torch's autocast for one of ``PRECISIONS``, or nothing where that casts nothing."""
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is None else torch.autocast(device_type, dtype)
