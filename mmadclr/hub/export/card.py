"""The model card of an exported backbone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmadclr.datasets.center_crop import short_side
from mmadclr.hub.export.formats import Format
from mmadclr.hub.export.origin import Origin
from mmadclr.hub.export.verification import BATCHES, Comparison
from mmadclr.hub.opening import OpenedBackbone

UNKNOWN = 'not recorded in the file'
STATISTICS = '{:.4g}, {:.4g}, {:.4g}'


@dataclass(frozen=True)
class CardText:
    """User-provided text; ``evaluations``: JSON files of evaluation tools. ``name`` defaults to the folder name."""

    name: str | None = None
    data: str | None = None
    license: str | None = None
    evaluations: Sequence[str | Path] = ()


def model_card(
    folder: str, form: Format, opened: OpenedBackbone, origin: Origin, comparisons: list[Comparison], text: CardText
) -> str:
    """Markdown with the metadata header of model hubs; ``folder``: the name used in the code snippet.

    Raises:
        FileNotFoundError, ValueError: An evaluation cannot be read.
    """
    parts = [
        _head(form, text),
        f'# {text.name or folder}\n\nA vision transformer, pretrained without labels; exported by mmadclr as a folder for '
        f'{form.loaders}.\n',
        f'```python\n{form.snippet(opened, folder)}```\n\n{_input_text(opened)}{form.preparation}\n',
        '## About\n\n' + _table(('', ''), _facts(opened, origin, text)),
        '## Verified\n\n' + verified_text(form, opened, comparisons),
    ]
    rows = [row for file in text.evaluations for row in evaluation_rows(file)]
    if rows:
        parts.append('## Evaluation\n\n' + _table(('file', 'result', 'value'), rows))
    return '\n'.join(parts)


def verified_text(form: Format, opened: OpenedBackbone, comparisons: list[Comparison]) -> str:
    """States at which sizes the features equal those of the original, and by how much they differ at others."""
    batches = ' and '.join(map(str, BATCHES))
    lines = [
        f'Opened with {form.loaders} and compared with the original on random images in batches of {batches}; largest '
        'difference of any feature:\n',
        _table(
            ('images', 'difference', f'equal (up to {comparisons[0].allowed:.1g})'),
            [(_size(c.size), f'{c.difference:.1e}', 'yes' if c.equal else 'no') for c in comparisons],
        ),
    ]
    if form.keeps_rule(opened):
        lines.append('Other sizes also give equal features: positions are resized as in the original.\n')
    elif form.takes_other_sizes(opened):
        lines.append(
            f'Only the first size is guaranteed. At other sizes {form.loaders} resizes positions differently from the '
            f'original (`{opened.model.pos_embed_resize}`).\n'
        )
    else:
        lines.append('Images of other sizes are not supported: the grid of positions is not square.\n')
    if not form.any_side:
        lines.append(f'Image sides must be multiples of {opened.model.patch_size}.\n')
    return '\n'.join(lines)


def evaluation_rows(file: str | Path) -> list[tuple[str, str, str]]:
    """(file, result, value) of every number or text in a JSON file, without tables and inputs; nested keys as paths.

    Raises:
        FileNotFoundError, ValueError: There is no such file, or it is not a JSON object.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f'evaluation {file} does not exist: pass a JSON file written by an evaluation tool')
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f'evaluation {file} is not a JSON file: {error}') from error
    if not isinstance(results, dict):
        raise ValueError(f'evaluation {file} contains a {type(results).__name__}, not a JSON object')
    results.pop('inputs', None)  # local paths
    return [(path.name, key, value) for key, value in _leaves(results)]


def _leaves(node: Any, path: str = '') -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f'{path}/{key}' if path else str(key))
    elif node is not None and not isinstance(node, list):
        yield path, f'{node:.4g}' if isinstance(node, float) else str(node)


def _head(form: Format, text: CardText) -> str:
    license = f'license: {json.dumps(text.license)}\n' if text.license else ''
    library = f'library_name: {form.loaders}\n' if form.loaders in ('timm', 'transformers') else ''
    return f'---\ntags:\n- image-feature-extraction\n- self-supervised\n{library}{license}---\n'


def _input_text(opened: OpenedBackbone) -> str:
    mean, std = (STATISTICS.format(*values) for values in (opened.mean, opened.std))
    short, crop = short_side(min(opened.img_size)), _size((min(opened.img_size),) * 2)
    return (
        f'`images`: (B, 3, H, W), values in [0, 1] normalized by mean {mean} and standard deviation {std}. Evaluations '
        f'resize the short side to {short} (bicubic) and take the {crop} center crop.'
    )


def _facts(opened: OpenedBackbone, origin: Origin, text: CardText) -> list[tuple[str, Any]]:
    model, arch = opened.model, opened.settings['arch']
    parameters = sum(parameter.numel() for parameter in model.parameters())
    registers = 0 if model.reg_token is None else model.reg_token.shape[1]
    return [
        ('method', origin.method or UNKNOWN),
        ('data', text.data or origin.data or UNKNOWN),
        ('epochs', UNKNOWN if origin.epochs is None else origin.epochs),
        ('image size', _size(opened.img_size) + (', positions resized to it' if origin.resized else '')),
        ('patch size, width, depth, heads', '{patch_size}, {embed_dim}, {depth}, {num_heads}'.format(**arch)),
        ('class token, registers', f'{"yes" if model.cls_token is not None else "no"}, {registers}'),
        ('layer scale, final norm', f'{_yes(opened.settings.get("layer_scale"))}, {_yes(opened.settings["final_norm"])}'),
        ('parameters', f'{parameters:,}'),
        ('source', f'`{origin.filename}` ({origin.which}), sha256 `{origin.sha256}`'),
        ('license', text.license or 'not given'),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return ''.join('| ' + ' | '.join(str(cell).replace('|', '\\|') for cell in line) + ' |\n' for line in lines)


def _size(size: tuple[int, int]) -> str:
    return f'{size[0]} x {size[1]}'


def _yes(value: Any) -> str:
    return 'yes' if value else 'no'
