"""Object stores and web servers through fsspec: lists shards with their versions, and reads them.

Every request is retried a limited number of times with increasing pauses; errors state the URL and the last response. File
systems are created on use, one per process and thread: their event loops do not survive a fork. Credentials
are handled by fsspec (its configuration, ``~/.aws``, ``~/.netrc``); URLs are shown without secrets.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import quote

from mmengine.logging import print_log

from mmadclr.names import is_hidden, printable
from mmadclr.urls import WEB, shown

T = TypeVar('T')
TRIES = 6  # consecutive ones without receiving data
PAUSE, MAX_PAUSE = 1.0, 30.0  # seconds before the second try, doubled for each further one; 31 s in total
TIMEOUT = 60.0  # seconds without data; s3fs and gcsfs have their own limits
THREADS = 16
# Version fields of file systems, strictest first.
TAGS = (
    *('generation', 'ETag', 'etag', 'md5Hash', 'Content-MD5'),
    *('LastModified', 'Last-Modified', 'updated', 'mtime', 'created'),
)
PASSING = (408, 409, 425, 429)  # 4xx status codes for which a retry may succeed
INSTALL = "pip install 'mmadclr[remote]'"
JITTER = random.SystemRandom()  # independent of the seeded generators


class StoreError(OSError, ValueError):
    """A store fails, or its shards cannot be cached; such errors are not replaced by another image."""


def expanded(url: str) -> str:
    """Expands environment variables: ``https://host/train?$SIGNATURE``.

    Raises:
        ValueError: One is not set.
    """
    full = os.path.expandvars(url)
    missing = re.search(r'\$(\w+|\{\w+\})', full)
    if missing is not None and full == url:
        raise ValueError(f'{shown(url)}: the environment variable {missing[0]} is not set')
    return full


def join(root: str, name: str) -> str:
    """URL of a file below another URL; the query of a web address stays at the end."""
    if not root.startswith(WEB):
        return f'{root.rstrip("/")}/{name}'
    path, mark, query = root.partition('?')
    return f'{path.rstrip("/")}/{quote(name)}{mark}{query}'


def find(root: str, pattern: str, names: Sequence[str] | None) -> list[str]:
    """Sorted URLs below ``root`` that match a glob, or those of ``names``, without checking that they exist.

    Raises:
        FileNotFoundError: Nothing matches.
        ValueError: A glob for a web server, which cannot list files.
        StoreError: See ``tried``.
    """
    root = expanded(root)
    if names is None and not re.search(r'[*?\[]', pattern):
        names = [pattern]
    if names is not None:
        return sorted(join(root, name) for name in names)
    if root.startswith(WEB):
        raise ValueError(
            f'shards={pattern!r} in {shown(root)}: web servers cannot list files; use a range '
            '(train-{000000..000146}.tar) or a list of names'
        )
    fs, path = file_system(root)
    found = sorted(tried(root, lambda: fs.glob(join(path, pattern))))
    kept = [path for path in found if not is_hidden(path.rpartition('/')[2])]
    if len(kept) < len(found):
        print_log(f'{shown(root)}: skipped {len(found) - len(kept)} hidden files that match shards={pattern!r}', 'current')
    if not kept:
        raise FileNotFoundError(f'no shard in {shown(root)} matches shards={pattern!r}')
    return [fs.unstrip_protocol(path) for path in kept]


def versions(urls: Sequence[str]) -> list[bytes]:
    """For each file its size in bytes, a blank, and the store's version tag.

    Raises:
        FileNotFoundError: Some are missing: states how many, and the first.
        StoreError: See ``tried``.
    """

    def one(url: str) -> bytes | None:
        try:
            return version(url)
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(min(THREADS, len(urls))) as pool:
        found = list(pool.map(one, urls))
    missing = [url for url, known in zip(urls, found, strict=True) if known is None]
    if missing:
        raise FileNotFoundError(f'{len(missing)} of {len(urls)} shards are missing; the first: {shown(missing[0])}')
    return [known for known in found if known is not None]


def version(url: str) -> bytes:
    """As :func:`versions`, for one file."""
    fs, path = file_system(url)
    info = tried(url, lambda: fs.info(path))
    if info.get('size') is None:
        raise StoreError(f'{shown(url)}: the server does not report its size (Content-Length)')
    tag = next((str(info[name]) for name in TAGS if info.get(name)), '')
    return f'{info["size"]} {tag}'.encode()


def read_small(url: str) -> bytes | None:
    """Contents of a small file; None if it does not exist."""
    fs, path = file_system(url)
    try:
        return tried(url, lambda: fs.cat_file(path))
    except FileNotFoundError:
        return None


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, cached by fsspec per process and thread, and the path in it.

    Raises:
        ValueError: A package is missing, or the URL scheme is unknown.
    """
    try:
        import fsspec

        return fsspec.core.url_to_fs(url, use_listings_cache=False, **(_web_options(url) if url.startswith(WEB) else {}))
    except ImportError as error:
        raise ValueError(f'{shown(url)}: {error}; {INSTALL}') from error
    except ValueError as error:
        raise ValueError(f'{shown(url)}: {_without_secrets(str(error))}') from None


def _web_options(url: str) -> dict:
    """Timeouts, and proxies and passwords from the environment; fsspec's configuration takes precedence."""
    import aiohttp
    import fsspec

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT)
    own = fsspec.config.conf.get(url.partition(':')[0], {}).get('client_kwargs', {})
    return dict(client_kwargs={'timeout': timeout, 'trust_env': True, **own})


class Tries:
    """Counts consecutive failures and pauses after each, with increasing duration.

    Args:
        url: Shown in messages.
    """

    def __init__(self, url: str) -> None:
        self.url, self.failures = url, 0

    def run(self, request: Callable[[], T]) -> T:
        """The result of a request, retried until it succeeds.

        Raises:
            FileNotFoundError: There is no such file.
            StoreError: The store denies access, or has failed ``TRIES`` consecutive times.
        """
        while True:
            try:
                answer = request()
            except Exception as error:
                self.failed(error)
            else:
                self.failures = 0
                return answer

    def failed(self, error: Exception) -> None:
        """Pauses, or raises."""
        status = _status(error)
        said = _said(error, status)
        if status in (404, 410) or (isinstance(error, FileNotFoundError) and error.__cause__ is None):
            raise FileNotFoundError(f'{shown(self.url)} does not exist') from None
        if _is_refusal(error, status):
            raise StoreError(f'{shown(self.url)}: access denied ({said}); check the credentials') from None
        self.failures += 1
        if self.failures >= TRIES:
            raise StoreError(f'{shown(self.url)}: {self.failures} consecutive tries failed; the last: {said}') from None
        time.sleep(min(PAUSE * 2 ** (self.failures - 1), MAX_PAUSE) * JITTER.uniform(0.5, 1))


def tried(url: str, request: Callable[[], T]) -> T:
    """See ``Tries.run``."""
    return Tries(url).run(request)


def _is_refusal(error: Exception, status: int | None) -> bool:
    if status is not None:
        return 400 <= status < 500 and status not in PASSING
    kinds = ('NoCredentialsError', 'PartialCredentialsError', 'DefaultCredentialsError')
    return isinstance(error, PermissionError) or type(error).__name__ in kinds


def _status(error: BaseException | None) -> int | None:
    """HTTP status of the response that caused the error."""
    while error is not None:
        # Not every `code`: aiohttp's parsers report a prematurely closed connection as 400.
        value = getattr(error, 'status', getattr(error, 'code', None) if type(error).__name__ == 'HttpError' else None)
        if value is not None and str(value).isdigit():
            return int(value)
        error = error.__cause__
    return None


def _said(error: BaseException, status: int | None) -> str:
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # fsspec raises it if a server does not respond
    if status is not None:
        return f'status {status} {_without_secrets(getattr(error, "message", "") or "")}'.strip()
    if isinstance(error, TimeoutError):
        return f'no response within {TIMEOUT:g} s'
    return f'{type(error).__name__}: {_without_secrets(str(error))}'.replace('\n', ' ')


def _without_secrets(text: str) -> str:
    return re.sub(r"""[\w+.:-]+://[^\s'"]+""", lambda match: shown(match[0]), printable(text))
