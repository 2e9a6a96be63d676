"""Exports the backbone of a checkpoint and uploads it to a repository of the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mmadclr.console.libraries import without_messages
from mmadclr.hub.export.card import LICENSE_FILE, CardText
from mmadclr.hub.export.folder import check_format, export_opened
from mmadclr.hub.export.origin import read_origin
from mmadclr.hub.export.verification import Comparison, compare, features_of_opened
from mmadclr.hub.opening import OpenedBackbone, open_backbone
from mmadclr.push.beside import find_results
from mmadclr.push.card import base_of, complete_card
from mmadclr.push.duties import check_license
from mmadclr.push.remote import check_login, check_name, files_of, upload
from mmadclr.push.results import Result, results_of_file

FORMATS = ('timm', 'hf')  # which the libraries load from the hub by name


@dataclass(frozen=True)
class Sharing:
    """What to share, and on whose word.

    ``data``, ``license``: for the card. ``evaluations``: JSON files of evaluation tools, in addition to what is found
    beside the checkpoint, unless not ``find``. ``license_file``: text of the license. ``confirmed``: the obligations of the
    license of the weights that training started from are met. ``private``: of a new repository. ``overwrite``: replaces all
    files of a repository that has some.
    """

    data: str | None = None
    license: str | None = None
    evaluations: Sequence[str | Path] = ()
    find: bool = True
    license_file: str | Path | None = None
    confirmed: bool = False
    private: bool = False
    overwrite: bool = False


class Push(NamedTuple):
    """``url``: address of the repository; None if nothing was uploaded. ``files``: sizes in bytes by name.

    ``card``: its text. ``comparisons``: of the folder, loaded by its own library, with the backbone. ``results``: numbers in
    the card.
    """

    url: str | None
    files: dict[str, int]
    card: str
    comparisons: list[Comparison]
    results: list[Result]


def push_backbone(
    checkpoint: str | Path,
    repository: str,
    to: str = 'timm',
    sharing: Sharing | None = None,
    dry_run: bool = False,
    say: Callable[[str], None] = print,
    which: str = 'teacher',
    num_heads: int | None = None,
    img_size: int | None = None,
    prefix: str | None = None,
    facts: Mapping | None = None,
) -> Push:
    """Exports a backbone to a temporary folder, verifies it, and uploads it in one commit.

    Args:
        checkpoint, which, num_heads, img_size, prefix, facts: See :func:`mmadclr.hub.export.export_backbone`.
        repository: ``USER/NAME``; created if there is none.
        to: One of ``FORMATS``.
        sharing: What to share, and on whose word.
        dry_run: Uploads nothing; needs no network and no token.
        say: Gets one line for each place with results, and one if there is no license.

    Raises:
        FileNotFoundError, ValueError: The name is invalid, nobody is logged in, the repository is not empty, the checkpoint
            or a result cannot be read, the license has obligations that are not confirmed, the folder differs from the
            backbone, or the hub refuses.
    """
    sharing = sharing or Sharing()
    check_name(repository)
    check_format(to)
    if not dry_run:
        check_repository(repository, sharing.overwrite)
    opened = open_backbone(checkpoint, which, prefix, num_heads, img_size, facts)
    license = check_license(opened.origin, sharing.license, sharing.confirmed, sharing.license_file)
    if not (sharing.license or opened.origin.get('license')):
        say('license  none: without one, nobody may use the weights; name it with --license')
    results = gather(checkpoint, sharing, say)
    origin = read_origin(checkpoint, which, img_size is not None, prefix)
    name = repository.partition('/')[2]
    text = CardText(name, sharing.data, sharing.license, repository=repository)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, name)
        comparisons = export_opened(opened, origin, folder, to, text)
        check_read_back(folder, opened)
        if license is not None:
            (folder / LICENSE_FILE).write_text(license, encoding='utf-8')
        complete_card(folder, name, results, base_of(opened.origin))
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        card = (folder / 'README.md').read_text(encoding='utf-8')
        url = None if dry_run else upload(folder, repository, sharing.private or None, f'{name}, exported by mmadclr')
    return Push(url, files, card, comparisons, results)


def check_repository(repository: str, overwrite: bool) -> None:
    """Raises ValueError if no one is logged in, or the repository has files that may not be replaced."""
    check_login()
    files = files_of(repository)
    if files and not overwrite:
        shown = ', '.join(files[:4]) + (', ...' if len(files) > 4 else '')
        raise ValueError(
            f'{repository} is not empty ({shown}): choose another name, or replace all its files with --overwrite (they '
            'stay in its history)'
        )


def gather(checkpoint: str | Path, sharing: Sharing, say: Callable[[str], None]) -> list[Result]:
    """Results of the files that the user gives, and of those that are found; says where each comes from.

    Raises:
        FileNotFoundError, ValueError: One cannot be read.
    """
    places = {str(file): results_of_file(file) for file in sharing.evaluations}
    if sharing.find:
        with _hinting():
            found = find_results(checkpoint)
        given = {Path(place).resolve() for place in places}
        places |= {place: results for place, results in found.results.items() if Path(place).resolve() not in given}
        for file in found.left:
            if file.resolve() not in given:
                say(f'results  not taken: {file} names no checkpoint; add it with --evaluation {file} if it is of this one')
    for place, results in places.items():
        say(f'results  {len(results)} from {place}')
    if not places:
        say('results  none found; add files of evaluation tools with --evaluation')
    return [result for results in places.values() for result in results]


@contextmanager
def _hinting() -> Iterator[None]:
    """Adds to errors of what was found how to do without it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f'{error}; or push without what lies beside the checkpoint: --no-found-results') from error


def check_read_back(folder: Path, opened: OpenedBackbone) -> None:
    """Raises ValueError if this package reads another backbone from the folder than was exported."""
    with without_messages():  # the folder is temporary, and what is read was said
        read = open_backbone(folder)
    comparison = compare(opened, features_of_opened(read), opened.img_size)
    if not comparison.equal:
        raise ValueError(
            f'read back from the folder to upload, features differ by {comparison.difference:.3g} (tolerance: '
            f'{comparison.allowed:.3g}); nothing was uploaded'
        )
