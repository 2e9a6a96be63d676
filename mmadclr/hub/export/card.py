"""The model card of an exported backbone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmadclr.checkpoint.families import FAMILIES, license_duties, license_title, needs_license_text
from mmadclr.datasets.center_crop import short_side
from mmadclr.hub.export.formats import Format
from mmadclr.hub.export.origin import Origin
from mmadclr.hub.export.verification import BATCHES, Comparison, compare, features_of_opened
from mmadclr.hub.opening import OpenedBackbone

UNKNOWN = 'not recorded in the file'
LICENSE_FILE = 'LICENSE.md'
STATISTICS = '{:.4g}, {:.4g}, {:.4g}'


@dataclass(frozen=True)
class CardText:
    """User-provided text; ``evaluations``: JSON files of evaluation tools. ``name`` defaults to the folder name.

    ``repository``: ``USER/NAME`` on the hub, from which the code snippet loads instead of from the folder.
    """

    name: str | None = None
    data: str | None = None
    license: str | None = None
    evaluations: Sequence[str | Path] = ()
    repository: str | None = None


def model_card(
    folder: str, form: Format, opened: OpenedBackbone, origin: Origin, comparisons: list[Comparison], text: CardText
) -> str:
    """Markdown with the metadata header of model hubs; ``folder``: the name used in the code snippet.

    Raises:
        FileNotFoundError, ValueError: An evaluation cannot be read.
    """
    parts = [
        _head(form, opened, text),
        f'# {text.name or folder}\n\nA vision transformer, pretrained without labels; exported by mmadclr as a folder for '
        f'{form.loaders}.\n',
        f'```python\n{form.snippet(opened, text.repository or folder)}```\n\n{_input_text(opened)}{form.preparation}\n',
        '## About\n\n' + _table(('', ''), _facts(opened, origin, text)),
        *license_part(opened),
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
    exported = form.exported(opened)
    if exported is not opened:
        change = compare(exported, features_of_opened(opened), opened.img_size).difference
        lines.append(
            f'The original stores periods of its rotary positions rounded to bfloat16; {form.loaders} computes them, and '
            f'this table compares with the computed ones. The rounding itself changes features by up to {change:.1e}.\n'
        )
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


def license_part(opened: OpenedBackbone) -> list[str]:
    """What the license of the weights that training started from demands of whoever shares the folder, if anything."""
    duties = license_duties(opened.origin)
    if not duties:
        return []
    required = (
        f' The text of the license belongs in `{LICENSE_FILE}` of this folder, as you received it with the weights: put it '
        'there before you share the folder.'
        if needs_license_text(opened.origin)
        else ''
    )
    return [
        f'## License\n\nThese weights are, or derive from, `{opened.origin.get("source", UNKNOWN)}`, published under '
        f'{license_title(opened.origin)}: {duties}.{required}\n'
    ]


def license_placeholder(opened: OpenedBackbone) -> str | None:
    """Content of ``LICENSE_FILE`` until the user replaces it; None if no text is required."""
    if not needs_license_text(opened.origin):
        return None
    return f'Replace this line by the text of the {license_title(opened.origin)}, which must accompany these weights.\n'


def _license_header(opened: OpenedBackbone, text: CardText) -> str:
    """Model hubs name few licenses; others are ``other``, with a name and the file of their text."""
    key = opened.origin.get('license')
    if key is not None and needs_license_text(opened.origin):
        return f'license: other\nlicense_name: {key}\nlicense_link: {LICENSE_FILE}\n'
    if key is not None and license_duties(opened.origin):
        return f'license: {json.dumps(key)}\n'
    chosen = text.license or key
    return f'license: {json.dumps(chosen)}\n' if chosen else ''


def _head(form: Format, opened: OpenedBackbone, text: CardText) -> str:
    license = _license_header(opened, text)
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
        ('data', text.data or _without_home(origin.data) or UNKNOWN),
        ('epochs', UNKNOWN if origin.epochs is None else origin.epochs),
        ('image size', _size(opened.img_size) + (', positions resized to it' if origin.resized else '')),
        ('patch size, width, depth, heads', '{patch_size}, {embed_dim}, {depth}, {num_heads}'.format(**arch)),
        ('class token, registers', f'{"yes" if model.cls_token is not None else "no"}, {registers}'),
        ('layer scale, final norm', f'{_yes(opened.settings.get("layer_scale"))}, {_yes(opened.settings["final_norm"])}'),
        ('parameters', f'{parameters:,}'),
        ('source', f'`{origin.filename}` ({origin.which}), sha256 `{origin.sha256}`'),
        *([('started from', f'{origin_title(opened.origin)}')] if opened.origin.get('source') else []),
        ('license', text.license or license_title(opened.origin) or 'not given'),
    ]


def origin_title(origin: Mapping[str, str]) -> str:
    """Family and source of weights of others."""
    family = FAMILIES[origin['family']].title if origin.get('family') in FAMILIES else 'other weights'
    return f'{family}, `{origin["source"]}`' + (f', {license_title(origin)}' if 'license' in origin else '')


def _without_home(data: str | None) -> str | None:
    """A folder of images without the folders above it if its path is absolute, which is of use on one machine only."""
    return data if data is None or not Path(data).is_absolute() else Path(data).name


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ['---'] * len(head), *rows]
    return ''.join('| ' + ' | '.join(str(cell).replace('|', '\\|') for cell in line) + ' |\n' for line in lines)


def _size(size: tuple[int, int]) -> str:
    return f'{size[0]} x {size[1]}'


def _yes(value: Any) -> str:
    return 'yes' if value else 'no'
