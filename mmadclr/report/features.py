"""Features of a few images over a run: read from the sessions, and of the newest checkpoint made anew."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from mmadclr.console.libraries import without_messages
from mmadclr.report.literals import nested
from mmadclr.report.sessions import Session

if TYPE_CHECKING:
    from mmadclr.datasets.image_dataset import ImageDataset
    from mmadclr.show.snapshots import Example, Snapshot

FOLDER = 'features'  # in the folder of a session
SIDE = 320  # pixels of stored images


class History(NamedTuple):
    """Snapshots of the same images, by iteration; ``images`` are JPEG files."""

    snapshots: list[Snapshot]
    images: list[bytes]


def image_file(number: int) -> str:
    return f'image_{number}.jpg'


def thumbnail(image: Image.Image) -> bytes:
    """A small JPEG file of an image."""
    small = image.convert('RGB')
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, 'JPEG', quality=85)
    return buffer.getvalue()


# --- of the run ------------------------------------------------------------------------------------------------------------


def read_features(sessions: Sequence[Session]) -> tuple[History | None, list[str]]:
    """What the sessions of a run have stored, and what of it is damaged or of other images; None if there is nothing.

    What a later session repeats replaces what was there.
    """
    folders = [session.folder / FOLDER for session in sessions if any((session.folder / FOLDER).glob('iter_*.npz'))]
    kept: list[Snapshot] = []
    notes: list[str] = []
    for folder in folders:
        found, damaged = read_folder(folder)
        notes += damaged
        first = min((each.iteration for each in found), default=None)
        kept = [*(each for each in kept if first is None or each.iteration < first), *found]
    if not kept:
        return None, notes
    same, left_out = alike(kept)
    images, missing = read_images(folders[-1], len(same[0].names))
    return (History(same, images) if images else None), [*notes, *left_out, *missing]


def read_folder(folder: Path) -> tuple[list[Snapshot], list[str]]:
    """Snapshots by iteration, and what is damaged."""
    from mmadclr.show.snapshots import read_snapshot

    found, notes = [], []
    for path in folder.glob('iter_*.npz'):
        try:
            found.append(read_snapshot(path))
        except ValueError as error:
            notes.append(str(error))
    return sorted(found, key=lambda each: each.iteration), notes


def alike(found: Sequence[Snapshot]) -> tuple[list[Snapshot], list[str]]:
    """Those that show the same as the last one."""
    same = [each for each in found if each.shown == found[-1].shown]
    count = len(found) - len(same)
    return same, [
        f'{count} of {len(found)} pictures of features are of other images or sizes, and were left out'
    ] if count else []


def read_images(folder: Path, count: int) -> tuple[list[bytes], list[str]]:
    """The stored images; none of them if one is missing or damaged."""
    images = []
    for number in range(count):
        try:
            content = (folder / image_file(number)).read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                image.load()
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            return [], [f'{folder / image_file(number)} cannot be read ({error}): pictures of features are left out']
        images.append(content)
    return images, []


# --- of the newest checkpoint ----------------------------------------------------------------------------------------------


def with_newest(
    history: History | None, config: Mapping[str, Any], checkpoint: Path, meta: Mapping[str, Any]
) -> tuple[History | None, list[str]]:
    """The history with the features of the newest checkpoint, unless it has them; and why they are missing.

    The images are those that the run's config names.
    """
    iteration = meta.get('iter')
    if not isinstance(iteration, int) or (history and history.snapshots[-1].iteration >= iteration):
        return history, []
    count = len(history.images) if history else None
    try:
        with without_messages():  # of data sets and weights: they are not about the report
            dataset = shown_dataset(config)
            if dataset is None:
                return history, []
            new, images = of_checkpoint(checkpoint, iteration, completed_epochs(checkpoint, meta), dataset, count)
    except Exception as error:  # of a data set or a file that is no longer what it was; the report is more than this
        return history, [f'no pictures of the features of {checkpoint} ({" ".join(str(error).split())})']
    if history is None:
        return History([new], images), []
    if new.shown != history.snapshots[-1].shown:
        return history, [f'the images of the run have changed: no pictures of the features of {checkpoint}']
    return history._replace(snapshots=[*history.snapshots, new]), []


def shown_dataset(config: Mapping[str, Any]) -> ImageDataset | None:
    """The validation data of a config, or else its training data, if they are images in a folder that exists.

    Raises:
        ValueError: Its folder does not exist.
    """
    from mmadclr.datasets.image_dataset import ImageDataset
    from mmadclr.registry import DATASETS

    loaders = (nested(config, f'{part}_dataloader', 'dataset') for part in ('val', 'train'))
    settings: Any = next((loader for loader in loaders if isinstance(loader, Mapping)), None)
    if settings is None or not isinstance(DATASETS.get(str(settings.get('type'))), type(ImageDataset)):
        return None
    folder = settings.get('data_root')
    if folder is not None and '://' not in str(folder) and not Path(folder).is_dir():
        raise ValueError(f'{folder} does not exist here: run the command where the images are')
    dataset = DATASETS.build(dict(settings))
    return dataset if isinstance(dataset, ImageDataset) else None


def of_checkpoint(
    checkpoint: Path, iteration: int, epoch: float | None, dataset: ImageDataset, count: int | None
) -> tuple[Snapshot, list[bytes]]:
    """Features of the teacher in a checkpoint, and the images.

    Raises:
        FileNotFoundError, ValueError: The file is not a backbone, or images cannot be read.
    """
    from mmadclr.show.snapshots import COUNT, examples, snapshot
    from mmadclr.show.study import subject_of

    shown: list[Example] = examples(dataset, count or COUNT)
    found = snapshot(subject_of(checkpoint.name, checkpoint), shown, iteration, epoch)
    return found, [thumbnail(example.image) for example in shown]


def completed_epochs(checkpoint: Path, meta: Mapping[str, Any]) -> float | None:
    """Of a checkpoint that was saved at the end of an epoch; of others the fraction is not known."""
    epoch = meta.get('epoch')
    return float(epoch) if checkpoint.name.startswith('epoch_') and isinstance(epoch, int) else None
