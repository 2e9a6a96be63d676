"""Weights by the name of a public model, downloaded by the library that knows it into its own cache.

``timm:NAME``: timm's pretrained weights of that name, with or without tag (``timm:vit_small_patch14_dinov2``,
``timm:vit_small_patch16_224.dino``). ``hf:USER/NAME`` or ``hf:USER/NAME@REVISION``: a repository with weights in the format
of transformers, timm or our exports. Nothing is downloaded that is in the cache.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
import timm
from huggingface_hub import constants, errors
from huggingface_hub.utils import logging

from mmadclr.checkpoint.folders import INDICES, SINGLE_FILES, read_json
from mmadclr.checkpoint.library_config import CONFIG, PREPROCESSOR
from mmadclr.urls import is_public_name

# No two dashes or dots in a row, and none at an end: the rules of the hub.
WORD = r'[A-Za-z0-9_]+([-.][A-Za-z0-9_]+)*'
NAME = re.compile(rf'(?P<repository>{WORD}/{WORD})(@(?P<revision>[^@\s]+))?')


def local_path(filename: str | Path) -> Path:
    """The path itself, or the folder with the downloaded weights of a public model.

    Raises:
        FileNotFoundError: Unknown model, or the weights are neither in the cache nor can they be downloaded.
        ValueError: An invalid name.
    """
    text = str(filename)
    if not is_public_name(text):
        return Path(filename)
    repository = _repository(text)
    folder = _folder(repository.cached)
    if folder is not None:
        if not constants.HF_HUB_OFFLINE and not repository.is_known(PREPROCESSOR):
            with suppress(FileNotFoundError):  # the cache may have been filled without it
                repository.download(PREPROCESSOR)
        return folder
    if constants.HF_HUB_OFFLINE:
        raise FileNotFoundError(f'{text}: {repository.unreachable()}')
    folder = _folder(repository.download)
    if folder is None:
        needed = ', '.join((*SINGLE_FILES, *INDICES))
        raise FileNotFoundError(f'{text}: {repository.page} must have {CONFIG} and one of {needed}; use another repository')
    return folder


def _folder(get: Callable[[str], Path | None]) -> Path | None:
    """The folder with configuration and all weights, fetched file by file; None if one is missing."""
    config = get(CONFIG)
    if config is None:
        return None
    get(PREPROCESSOR)
    for whole, index in zip(SINGLE_FILES, INDICES, strict=True):
        if get(whole) is not None:
            return config.parent
        listed = get(index)
        places = {} if listed is None else read_json(listed).get('weight_map')
        if listed is not None and isinstance(places, dict):
            shards = sorted({str(shard) for shard in places.values()})
            return config.parent if all(get(shard) is not None for shard in shards) else None
    return None


class Repository(NamedTuple):
    """A repository on the hub, and the name by which the user ``asked`` for it."""

    asked: str
    name: str
    revision: str | None = None

    @property
    def page(self) -> str:
        return f'{constants.ENDPOINT}/{self.name}'

    def is_known(self, file: str) -> bool:
        """Whether the cache has the file, or a note that the repository has none of this name."""
        return huggingface_hub.try_to_load_from_cache(self.name, file, revision=self.revision) is not None

    def cached(self, file: str) -> Path | None:
        """A file in the cache."""
        found = huggingface_hub.try_to_load_from_cache(self.name, file, revision=self.revision)
        return Path(found) if isinstance(found, str) else None

    def download(self, file: str) -> Path | None:
        """A file, downloaded into the cache; None if the repository has none of this name.

        Raises:
            FileNotFoundError: It cannot be downloaded.
        """
        level = logging.get_verbosity()
        logging.set_verbosity_error()  # instead of a page of retries, there is one line at the end
        try:
            return Path(huggingface_hub.hf_hub_download(self.name, file, revision=self.revision))
        except errors.LocalEntryNotFoundError as error:
            cause = error if error.__cause__ is None else error.__cause__
            raise FileNotFoundError(f'{self.asked}: {self.unreachable()} ({_first_line(cause)})') from error
        except errors.EntryNotFoundError:
            return None
        except errors.HfHubHTTPError as error:
            raise FileNotFoundError(f'{self.asked}: {self._refused(error)}') from error
        except OSError as error:  # of the connection, or of a full disk
            raise FileNotFoundError(f'{self.asked}: {self.unreachable()} ({_first_line(error)})') from error
        except Exception as error:  # types depend on the version of the library: those of httpx are no OSErrors
            raise FileNotFoundError(
                f'{self.asked}: {file} of {self.page} cannot be downloaded ({type(error).__name__}: {_first_line(error)})'
            ) from error
        finally:
            logging.set_verbosity(level)

    def _refused(self, error: errors.HfHubHTTPError) -> str:
        if isinstance(error, errors.GatedRepoError):
            return f'ask for access to these weights at {self.page}, then run `hf auth login` and try again'
        if isinstance(error, errors.RevisionNotFoundError):
            return f'{self.page} has no revision {self.revision!r}'
        if isinstance(error, errors.RepositoryNotFoundError):
            return f'there is no {self.page}, or it is private: check the name, or run `hf auth login`'
        return f'{self.page} cannot be read: {_first_line(error)}'

    def unreachable(self) -> str:
        """That the weights are nowhere, and what to do."""
        why = 'HF_HUB_OFFLINE is set' if constants.HF_HUB_OFFLINE else f'{constants.ENDPOINT} cannot be reached'
        return (
            f'{self.name} is not in the local cache ({constants.HF_HUB_CACHE}) and {why}; elsewhere, download {CONFIG}, '
            f'{PREPROCESSOR} if there is one, and {SINGLE_FILES[0]} from {self.page} into a folder, and give the path of '
            'that folder instead of the name'
        )


def _repository(text: str) -> Repository:
    """The repository of a name.

    Raises:
        FileNotFoundError: timm has no such weights.
        ValueError: An invalid name.
    """
    if text.startswith('timm:'):
        return _repository_of_timm(text)
    match = NAME.fullmatch(text.removeprefix('hf:'))
    if match is None:
        raise ValueError(f'{text}: must be hf:USER/NAME or hf:USER/NAME@REVISION')
    return Repository(text, match['repository'], match['revision'])


def _repository_of_timm(text: str) -> Repository:
    name = text.removeprefix('timm:')
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:  # unknown architecture or tag
        config = None
    if config is None or not config.has_weights:
        close = difflib.get_close_matches(name, timm.list_pretrained())
        hint = f'; did you mean {" or ".join(f"timm:{other}" for other in close)}?' if close else ''
        raise FileNotFoundError(f'{text}: timm {timm.__version__} has no pretrained weights of this name{hint}')
    if not config.hf_hub_id:
        raise FileNotFoundError(f'{text}: download {config.url} and give the path of the file instead of the name')
    repository, _, revision = config.hf_hub_id.partition('@')
    return Repository(text, repository, revision or None)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
