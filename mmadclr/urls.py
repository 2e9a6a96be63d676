"""URLs of data and names of public models: detection, and display without secrets."""

from __future__ import annotations

import re
from pathlib import Path

from mmadclr.names import printable

WEB = ('http://', 'https://')
URL = re.compile(r'[\w+.:-]+://')
PUBLIC_SCHEMES = ('timm:', 'hf:')  # names of public models


def is_url(place: object) -> bool:
    """Whether ``place`` is a URL that fsspec reads rather than a path."""
    return isinstance(place, str) and URL.match(place) is not None


def shown(place: str | Path) -> str:
    """A path or URL for messages: printable, without user, password or the query of a web address."""
    text = printable(place)
    if is_url(text):
        text = re.sub(r'//[^/]*@', '//', text)
        if text.startswith(WEB):
            text = text.partition('?')[0]
    return text


def has_secrets(place: str) -> bool:
    """Whether a URL contains a password or a query (possibly a signature) that is not read from environment variables."""
    if not is_url(place):
        return False
    query = place.partition('?')[2] if place.startswith(WEB) else ''
    password = re.match(r'[\w+.:-]+://[^/@]*:([^/@]+)@', place)
    return any(secret and '$' not in secret for secret in (query, password and password[1]))


def is_public_name(filename: str) -> bool:
    """Whether weights are given by the name of a public model: see :mod:`mmadclr.checkpoint.public`."""
    return filename.startswith(PUBLIC_SCHEMES)
