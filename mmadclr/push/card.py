"""The model card of a repository: that of the exported folder, with results in its metadata and a table of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard

from mmadclr.checkpoint.public import WORD
from mmadclr.push.results import Result

DIGITS = 6  # significant ones of a value
HEAD = '| data | metric | value | 95 % interval | from |\n|---|---|---|---|---|\n'


def complete_card(folder: Path, name: str, results: Sequence[Result], base: str | None) -> None:
    """Completes the card of a folder: results in its ``model-index``, the format of the hub, and as a table; ``base_model``.

    Args:
        folder: With a README.md.
        name: Of the model.
        results: May be none.
        base: Repository of the weights that training started from.
    """
    card = ModelCard.load(folder / 'README.md')
    if base is not None:
        card.data.base_model = base
    if results:
        card.data.model_name = name
        card.data.eval_results = [as_metadata(result) for result in results]
        table = f'## Evaluation\n\n{HEAD}' + ''.join(map(_row, results))
        card.text = f'{card.text.rstrip()}\n\n{table}'
    card.save(folder / 'README.md')


def base_of(origin: Mapping[str, str]) -> str | None:
    """The repository on the hub that weights come from; None if their source is another."""
    name = origin.get('source', '').removeprefix('hf:').partition('@')[0]
    return name if re.fullmatch(f'{WORD}/{WORD}', name) else None


def as_metadata(result: Result) -> EvalResult:
    """A result in the terms of the hub; percent stays percent."""
    return EvalResult(
        task_type=result.task,
        dataset_type=re.sub(r'[^a-z0-9_.-]+', '-', result.dataset.lower()),
        dataset_name=result.dataset,
        metric_type=result.kind,
        metric_name=result.metric,
        metric_value=float(f'{result.value:.{DIGITS}g}'),
    )


def _row(result: Result) -> str:
    known = result.low is not None and result.high is not None
    interval = f'{result.low:.4g} to {result.high:.4g}' if known else ''
    cells = (result.dataset, result.metric, f'{result.value:.4g}', interval, result.source)
    return '| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |\n'
