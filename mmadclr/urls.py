"""URLs as places of data: which strings are one, and how they are shown without what is secret."""

from __future__ import annotations

import re
from pathlib import Path

from mmadclr.names import printable

WEB = ('http://', 'https://')
URL = re.compile(r'[\w+.:-]+://')


def is_url(place: object) -> bool:
    """Whether it is the URL of something that fsspec reads, and no path."""
    return isinstance(place, str) and URL.match(place) is not None


def shown(place: str | Path) -> str:
    """A path or URL as messages show it: printable, without user, password or the query of a web address."""
    text = printable(place)
    if is_url(text):
        text = re.sub(r'//[^/]*@', '//', text)
        if text.startswith(WEB):
            text = text.partition('?')[0]
    return text


def has_secrets(place: str) -> bool:
    """Whether a URL holds a password or a query, which may be a signature, that is not left to environment variables."""
    if not is_url(place):
        return False
    query = place.partition('?')[2] if place.startswith(WEB) else ''
    password = re.match(r'[\w+.:-]+://[^/@]*:([^/@]+)@', place)
    return any(secret and '$' not in secret for secret in (query, password and password[1]))
