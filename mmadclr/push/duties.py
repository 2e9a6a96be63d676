"""What the license of weights of others demands of whoever shares a model that derives from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmadclr.checkpoint.families import license_duties, license_title, needs_license_text


def check_license(origin: Mapping[str, str], license: str | None, confirmed: bool, text: str | Path | None) -> str | None:
    """Checks that the license of the weights that training started from allows to share them as asked.

    Args:
        origin: Family, source and license of the weights, of ``OpenedBackbone``; empty for those of no one else.
        license: The one that the user gives for the model.
        confirmed: The user meets the obligations.
        text: File with the text of the license, as it came with the weights.

    Returns:
        The text to share with the weights; None if no license demands one and none is given.

    Raises:
        FileNotFoundError: There is no such text.
        ValueError: The license is another than that of the weights, is not known, or has obligations that are not confirmed,
            or its text is missing.
    """
    source, recorded, duties = origin.get('source', 'an unknown source'), license_title(origin), license_duties(origin)
    if duties and license not in (None, origin.get('license')):
        raise ValueError(
            f'--license {license}: the weights derive from {source}, published under {recorded}, which holds for this model '
            'too; leave out --license'
        )
    if duties and not confirmed:
        raise ValueError(
            f'the weights derive from {source}, published under {recorded}: {duties}; if you meet this, repeat with '
            f'--confirm-license{" --license-file FILE, the text of the license" if needs_license_text(origin) else ""}'
        )
    if 'source' in origin and recorded is None and not (license or confirmed):
        raise ValueError(
            f'the weights derive from {source}, whose license is not recorded: ask its authors, then repeat with --license '
            'NAME, or with --confirm-license if sharing is allowed'
        )
    content = None if text is None else read_text(text)
    if content is None and needs_license_text(origin):
        raise ValueError(
            f'{recorded} demands that its text accompanies the weights from {source}: give it, as you received it, with '
            '--license-file FILE'
        )
    return content


def read_text(file: str | Path) -> str:
    """The text of a license.

    Raises:
        FileNotFoundError, ValueError: There is no such file, or it is empty or not a text.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f'--license-file {file} does not exist: give the file with the text of the license')
    try:
        text = path.read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
        raise ValueError(f'--license-file {file} is not a UTF-8 text ({error}): give the text of the license') from error
    if not text.strip():
        raise ValueError(f'--license-file {file} is empty: give the text of the license')
    return text
