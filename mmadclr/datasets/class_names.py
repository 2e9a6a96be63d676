"""Whether the classes of a head, of its training and of an evaluation are the same."""

from __future__ import annotations

from collections.abc import Sequence


def check_count(classes: Sequence[str], num_classes: int, where: str) -> None:
    """Raises ValueError if a head has another number of outputs than there are classes."""
    if len(classes) != num_classes:
        raise ValueError(
            f'{where} holds {len(classes)} classes, the head has {num_classes} outputs: set model.head.num_classes='
            f'{len(classes)}, and model.data_preprocessor.num_classes where the config has it'
        )


def check_names(trained_on: Sequence[str], classes: Sequence[str], where: str) -> None:
    """Raises ValueError if the names of the classes of training and of evaluation differ."""
    if tuple(trained_on) == tuple(classes):
        return
    only_train, only_here = sorted({*trained_on} - {*classes}), sorted({*classes} - {*trained_on})
    raise ValueError(
        f'the classes of {where} are not those of training: {len(only_here)} are here alone ({", ".join(only_here[:5])}), '
        f'{len(only_train)} in training alone ({", ".join(only_train[:5])}); labels of the one mean nothing in the other'
    )
