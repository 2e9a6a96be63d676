"""Exports a backbone to a folder that other libraries load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmadclr.files import atomic_path
from mmadclr.hub.export.card import LICENSE_FILE, CardText, evaluation_rows, license_placeholder, model_card
from mmadclr.hub.export.formats import Format, require
from mmadclr.hub.export.hf_folder import HuggingFaceFolder
from mmadclr.hub.export.origin import Origin, read_origin
from mmadclr.hub.export.programs import OnnxFolder, TorchScriptFolder
from mmadclr.hub.export.timm_folder import SafetensorsFolder, TimmFolder
from mmadclr.hub.export.verification import Comparison, verify
from mmadclr.hub.opening import OpenedBackbone, open_backbone

FORMATS: dict[str, Format] = {
    'timm': TimmFolder(),
    'safetensors': SafetensorsFolder(),
    'onnx': OnnxFolder(),
    'torchscript': TorchScriptFolder(),
    'hf': HuggingFaceFolder(),
}


def export_backbone(
    checkpoint: str | Path,
    folder: str | Path,
    to: str,
    which: str = 'teacher',
    num_heads: int | None = None,
    img_size: int | None = None,
    text: CardText | None = None,
    prefix: str | None = None,
    facts: Mapping | None = None,
) -> list[Comparison]:
    """Writes weights, configuration and model card, and verifies them against the backbone before the folder gets its name.

    Args:
        checkpoint, which, num_heads, prefix, facts: See :func:`mmadclr.hub.opening.open_backbone`.
        folder: Must not exist, or be empty.
        to: One of ``FORMATS``.
        img_size: Stores positions resized for images of this size; by default they are stored unchanged.
        text: For the model card.

    Returns:
        Comparisons of the folder, loaded by its own library, with the backbone; the stored size comes first.

    Raises:
        FileNotFoundError, ValueError: The checkpoint or an evaluation cannot be read, the folder is not empty, the format
            is unknown, does not support the backbone or needs a missing package, or the result differs.
    """
    folder, text = Path(folder), text or CardText()
    check_format(to)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f'{folder} already exists: choose another folder, or remove it')
    for file in text.evaluations:
        evaluation_rows(file)  # find errors before the export
    opened = open_backbone(checkpoint, which, prefix, num_heads, img_size, facts)
    origin = read_origin(checkpoint, which, img_size is not None, prefix)
    return export_opened(opened, origin, folder, to, text)


def export_opened(opened: OpenedBackbone, origin: Origin, folder: Path, to: str, text: CardText) -> list[Comparison]:
    """As :func:`export_backbone`, of a backbone that is already open, to a folder that does not exist.

    Raises:
        ValueError: The format does not support the backbone, or the result differs.
    """
    form = FORMATS[to]
    try:
        form.check(opened)
    except ValueError as error:
        raise ValueError(f'{origin.filename}: {error}') from error
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        form.write(opened, temporary)
        comparisons = verify(form, form.exported(opened), form.load(temporary))
        if (license := license_placeholder(opened)) is not None:
            (temporary / LICENSE_FILE).write_text(license)
        (temporary / 'README.md').write_text(model_card(folder.resolve().name, form, opened, origin, comparisons, text))
    return comparisons


def check_format(name: str) -> None:
    """Raises ValueError if a format is unknown or needs a missing package."""
    if name not in FORMATS:
        raise ValueError(f'format {name!r}: choose one of {", ".join(FORMATS)}')
    for package in FORMATS[name].packages:
        require(package, f'the format {name}')
