"""Object stores and web servers through fsspec: which shards there are, in which version, and their bytes.

Every request is tried a limited number of times, with growing pauses; what ends it names the URL and the last answer. File
systems are made where they are used, one for each process and thread: their event loops do not survive a fork. Credentials
are fsspec's business (its configuration, ``~/.aws``, ``~/.netrc``); URLs are shown without what may be secret in them.
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
TRIES = 6  # without a byte gained in between
PAUSE, MAX_PAUSE = 1.0, 30.0  # seconds before the second try, doubled before each further one; pauses in all: 31 s
TIMEOUT = 60.0  # seconds without a byte; s3fs and gcsfs have limits of their own
THREADS = 16
# What file systems call the version of a file, the strictest first.
TAGS = (
    *('generation', 'ETag', 'etag', 'md5Hash', 'Content-MD5'),
    *('LastModified', 'Last-Modified', 'updated', 'mtime', 'created'),
)
PASSING = (408, 409, 425, 429)  # of the answers 400 to 499, those that another try may change
INSTALL = "pip install 'mmadclr[remote]'"
JITTER = random.SystemRandom()  # leaves the seeded generators alone


class StoreError(OSError, ValueError):
    """A store does not give what it should, or its shards cannot be kept: no other image stands in for that."""


def expanded(url: str) -> str:
    """With environment variables filled in: ``https://host/train?$SIGNATURE``.

    Raises:
        ValueError: One is not set.
    """
    full = os.path.expandvars(url)
    missing = re.search(r'\$(\w+|\{\w+\})', full)
    if missing is not None and full == url:
        raise ValueError(f'{shown(url)}: the environment variable {missing[0]} is not set')
    return full


def join(root: str, name: str) -> str:
    """URL of what lies below another; the query of a web address stays at the end."""
    if not root.startswith(WEB):
        return f'{root.rstrip("/")}/{name}'
    path, mark, query = root.partition('?')
    return f'{path.rstrip("/")}/{quote(name)}{mark}{query}'


def find(root: str, pattern: str, names: Sequence[str] | None) -> list[str]:
    """Sorted URLs below ``root`` that a glob stands for, or those of ``names``, which may not be there.

    Raises:
        FileNotFoundError: Nothing matches.
        ValueError: A web server, which lists nothing, is asked for a glob.
        StoreError: See ``tried``.
    """
    root = expanded(root)
    if names is None and not re.search(r'[*?\[]', pattern):
        names = [pattern]
    if names is not None:
        return sorted(join(root, name) for name in names)
    if root.startswith(WEB):
        raise ValueError(
            f'shards={pattern!r} in {shown(root)}: web servers list no files; give a range (train-{{000000..000146}}.tar) '
            'or a list of names'
        )
    fs, path = file_system(root)
    found = sorted(tried(root, lambda: fs.glob(join(path, pattern))))
    kept = [path for path in found if not is_hidden(path.rpartition('/')[2])]
    if len(kept) < len(found):
        print_log(f'{shown(root)}: left out {len(found) - len(kept)} hidden files that match shards={pattern!r}', 'current')
    if not kept:
        raise FileNotFoundError(f'no shard in {shown(root)} matches shards={pattern!r}')
    return [fs.unstrip_protocol(path) for path in kept]


def versions(urls: Sequence[str]) -> list[bytes]:
    """Of each file its size in bytes, a blank, and how the store calls its version.

    Raises:
        FileNotFoundError: Some are missing: says how many, and the first.
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
        raise FileNotFoundError(f'{len(missing)} of {len(urls)} shards are missing, the first: {shown(missing[0])}')
    return [known for known in found if known is not None]


def version(url: str) -> bytes:
    """The same of one file."""
    fs, path = file_system(url)
    info = tried(url, lambda: fs.info(path))
    if info.get('size') is None:
        raise StoreError(f'{shown(url)}: the server does not say how large it is (Content-Length)')
    tag = next((str(info[name]) for name in TAGS if info.get(name)), '')
    return f'{info["size"]} {tag}'.encode()


def read_small(url: str) -> bytes | None:
    """Contents of a small file; None if there is none."""
    fs, path = file_system(url)
    try:
        return tried(url, lambda: fs.cat_file(path))
    except FileNotFoundError:
        return None


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, as fsspec keeps it for this process and thread, and the path in it.

    Raises:
        ValueError: A package is missing, or there is no such kind of URL.
    """
    try:
        import fsspec

        return fsspec.core.url_to_fs(url, use_listings_cache=False, **(_web_options(url) if url.startswith(WEB) else {}))
    except ImportError as error:
        raise ValueError(f'{shown(url)}: {error}; {INSTALL}') from error
    except ValueError as error:
        raise ValueError(f'{shown(url)}: {_without_secrets(str(error))}') from None


def _web_options(url: str) -> dict:
    """Limits of waiting, proxies and passwords of the environment; what fsspec's configuration says comes first."""
    import aiohttp
    import fsspec

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT)
    own = fsspec.config.conf.get(url.partition(':')[0], {}).get('client_kwargs', {})
    return dict(client_kwargs={'timeout': timeout, 'trust_env': True, **own})


class Tries:
    """Counts failures in a row and pauses after each, longer every time.

    Args:
        url: What messages name.
    """

    def __init__(self, url: str) -> None:
        self.url, self.failures = url, 0

    def run(self, request: Callable[[], T]) -> T:
        """The answer to a request, asked until it comes.

        Raises:
            FileNotFoundError: There is no such file.
            StoreError: The store refuses, or has failed ``TRIES`` times in a row.
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
            raise StoreError(f'{shown(self.url)}: the store refuses ({said}); are the credentials right?') from None
        self.failures += 1
        if self.failures >= TRIES:
            raise StoreError(f'{shown(self.url)}: {self.failures} tries in a row have failed, the last: {said}') from None
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
    """Of the answer of a server that the error comes from."""
    while error is not None:
        # Not any code: parsers of aiohttp call a connection that ends too early 400.
        value = getattr(error, 'status', getattr(error, 'code', None) if type(error).__name__ == 'HttpError' else None)
        if value is not None and str(value).isdigit():
            return int(value)
        error = error.__cause__
    return None


def _said(error: BaseException, status: int | None) -> str:
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # fsspec's way to say that a server did not answer
    if status is not None:
        return f'status {status} {_without_secrets(getattr(error, "message", "") or "")}'.strip()
    if isinstance(error, TimeoutError):
        return f'no answer within {TIMEOUT:g} s'
    return f'{type(error).__name__}: {_without_secrets(str(error))}'.replace('\n', ' ')


def _without_secrets(text: str) -> str:
    return re.sub(r"""[\w+.:-]+://[^\s'"]+""", lambda match: shown(match[0]), printable(text))
