"""The hub: who is logged in, what a repository holds, and the upload; every refusal is one line that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, errors, get_token
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

from mmadclr.checkpoint.public import WORD

LOG_IN = 'run `hf auth login`, or set HF_TOKEN to a token with the right to write'
LONGEST_NAME = 96  # of the hub
EXPECTED = (ValueError, OSError, RuntimeError)  # of the library, of requests, of a part of an upload
NETWORK = ('httpx', 'httpx2')  # of versions 1 and 2 of the library, whose errors are of no common kind
OWN_FILES = ('.gitattributes',)  # in every repository from its start


def check_name(repository: str) -> None:
    """Raises ValueError if a name is not ``USER/NAME`` by the rules of the hub."""
    if not re.fullmatch(f'{WORD}/{WORD}', repository) or len(repository) > LONGEST_NAME or repository.endswith('.git'):
        raise ValueError(
            f'{repository!r} must be USER/NAME, of letters, digits and single -, _ and . between them, such as '
            f'me/vits16-photos, of at most {LONGEST_NAME} characters'
        )


def check_login() -> str:
    """The name of the user who is logged in.

    Raises:
        ValueError: No one is, or the hub cannot be reached.
    """
    if constants.HF_HUB_OFFLINE:
        raise ValueError('HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it, or use --dry-run')
    if get_token() is None:
        raise ValueError(f'not logged in to {constants.ENDPOINT}: {LOG_IN}')
    with explained(constants.ENDPOINT):
        return HfApi().whoami()['name']


def files_of(repository: str) -> list[str]:
    """Files in a repository, without those that the hub puts there; none if there is no such repository.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        with explained(repository):
            return [file for file in HfApi().list_repo_files(repository) if file not in OWN_FILES]
    except _NoRepositoryError:
        return []


def upload(folder: Path, repository: str, private: bool | None, message: str) -> str:
    """Uploads a folder in one commit, which also removes all other files; creates the repository if there is none.

    Args:
        folder: The folder.
        repository: ``USER/NAME``.
        private: Of a new repository: True for private, None for what its owner has set.
        message: Of the commit.

    Returns:
        The address of the repository.

    Raises:
        ValueError: The hub refuses, or cannot be reached.
    """
    api = HfApi()
    disable_progress_bars()  # of every file; weights of backbones take a minute
    try:
        with explained(repository):
            url = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message, delete_patterns='*')
    finally:
        enable_progress_bars()
    return str(url)


class _NoRepositoryError(ValueError):
    """There is no such repository, or it is one of others that is private."""


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Turns errors of the library into ValueError with one line; ``place``: what was asked for."""
    try:
        yield
    except errors.RepositoryNotFoundError as error:
        if _status(error) == 401 and get_token() is None:
            raise ValueError(f'not logged in to {constants.ENDPOINT}: {LOG_IN}') from error
        raise _NoRepositoryError(f'{place}: {_refused(error)}') from error
    except Exception as error:
        if not isinstance(error, EXPECTED) and type(error).__module__.partition('.')[0] not in NETWORK:
            raise
        raise ValueError(f'{place}: {_refused(_cause(error))}') from error


def _cause(error: BaseException) -> BaseException:
    """An upload in parts raises RuntimeError from what went wrong."""
    return error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error


def _refused(error: BaseException) -> str:
    status = _status(error)
    if status is None and not isinstance(error, ValueError):
        return f'{constants.ENDPOINT} cannot be reached ({type(error).__name__}): check the network, or use --dry-run'
    lines = (getattr(error, 'server_message', None) or str(error)).splitlines()
    text = next((line.strip(' -') for line in reversed(lines) if line.strip()), type(error).__name__)
    if status == 401:
        return f'{constants.ENDPOINT} does not accept the token: {LOG_IN}'
    if status == 403:
        return f'no right to write ({text}): {LOG_IN}, or choose a USER/NAME of your own'
    return f'{constants.ENDPOINT} refuses it ({text})'


def _status(error: BaseException) -> int | None:
    return getattr(getattr(error, 'response', None), 'status_code', None)
