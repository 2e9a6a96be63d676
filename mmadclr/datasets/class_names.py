"""Checks that the classes of the head, of training and of evaluation agree."""

from __future__ import annotations

from collections.abc import Sequence


def check_count(classes: Sequence[str], num_classes: int, where: str) -> None:
    """Raises ValueError if the number of head outputs differs from the number of classes."""
    if len(classes) != num_classes:
        raise ValueError(
            f'{where} has {len(classes)} classes, but the head has {num_classes} outputs: set model.head.num_classes='
            f'{len(classes)}, and model.data_preprocessor.num_classes if the config sets it'
        )


def check_names(trained_on: Sequence[str], classes: Sequence[str], where: str) -> None:
    """Raises ValueError if the class names of training and evaluation differ."""
    if tuple(trained_on) == tuple(classes):
        return
    only_train, only_here = sorted({*trained_on} - {*classes}), sorted({*classes} - {*trained_on})
    raise ValueError(
        f'the classes of {where} differ from those of training: {len(only_here)} only here ({", ".join(only_here[:5])}), '
        f'{len(only_train)} only in training ({", ".join(only_train[:5])}); their labels are not comparable'
    )
