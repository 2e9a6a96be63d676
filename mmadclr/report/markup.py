"""Small pieces of HTML; every text is escaped here."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(content: object) -> Html:
    """HTML of a text; :class:`Html` is not changed. Broken Unicode of file names becomes ``?``."""
    if isinstance(content, Html):
        return content
    return Html(html.escape(str(content).encode('utf-8', 'replace').decode()))


def tag(name: str, *contents: object, **attributes: str) -> Html:
    """An element; ``class_`` is the attribute ``class``."""
    words = ''.join(f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"' for key, value in attributes.items())
    return Html(f'<{name}{words}>{"".join(map(escaped, contents))}</{name}>')


def joined(parts: Iterable[object]) -> Html:
    return Html('\n'.join(escaped(part) for part in parts if part != ''))


def section(title: str, *contents: object) -> Html:
    """A part of the page; empty without contents."""
    inner = joined(contents)
    return tag('section', tag('h2', title), '\n', inner) if inner else Html('')


def table(head: Sequence[object], rows: Iterable[Sequence[object]], numbers: Iterable[int] = ()) -> Html:
    """A table that scrolls by itself if it is too wide; the columns ``numbers`` are aligned to the right."""
    right = set(numbers)

    def line(kind: str, row: Sequence[object]) -> Html:
        cells = (tag(kind, cell, **({'class_': 'number'} if column in right else {})) for column, cell in enumerate(row))
        return tag('tr', *cells)

    body = [line('td', row) for row in rows]
    if not body:
        return Html('')
    top = tag('thead', line('th', head)) if any(head) else ''
    return tag('div', tag('table', top, tag('tbody', *body)), class_='scroll')


def pairs(rows: Iterable[tuple[object, object]]) -> Html:
    """Names and values below each other."""
    found = [(tag('dt', name), tag('dd', value)) for name, value in rows]
    return tag('dl', *(part for pair in found for part in pair)) if found else Html('')


def folded(title: object, *contents: object) -> Html:
    """Contents that open by a click; empty without contents."""
    inner = joined(contents)
    return tag('details', tag('summary', title), inner) if inner else Html('')


def embedded(name: str, data: Any) -> Html:
    """Data for the script of the page, as JSON that cannot end its element; numbers that are not finite are null."""
    text = json.dumps(finite(data), ensure_ascii=True, allow_nan=False, separators=(',', ':'))
    return Html(f'<script type="application/json" id="{name}">{text.replace("<", chr(92) + "u003c")}</script>')


def finite(node: Any) -> Any:
    """Nested values, where numbers that are not finite are None."""
    if isinstance(node, dict):
        return {key: finite(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def short(value: float) -> str:
    """A number with four digits."""
    return f'{value:,.0f}' if abs(value) >= 10000 else f'{value:.4g}'
