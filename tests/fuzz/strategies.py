"""What the fuzz tests share: damaged bytes, values of JSON, and what counts as a good end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from mmadclr.cli.launch import report_bad_input

HEADER = 96  # bytes in which most formats say what they hold
MAX_SECONDS, MAX_MEGABYTES = 15, 256
RESET_PEAK, STATUS = Path('/proc/self/clear_refs'), Path('/proc/self/status')


class TooSlowError(AssertionError):
    """A call took longer than ``MAX_SECONDS``."""


@contextmanager
def limits(megabytes: float = MAX_MEGABYTES) -> Iterator[None]:
    """Fails where a call takes more than ``MAX_SECONDS``, or memory that it writes to more than so much (on Linux)."""

    def ring(*_: object) -> None:
        raise TooSlowError(f'still running after {MAX_SECONDS} s')

    before, handler = _megabytes('VmRSS', reset=True), signal.signal(signal.SIGALRM, ring)
    signal.alarm(MAX_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        taken = _megabytes('VmHWM') - before  # of a refusal, too
        assert taken < megabytes, f'{taken:.0f} MB were taken'


def _megabytes(key: str, reset: bool = False) -> float:
    """A size of this process; ``reset``: peaks begin anew."""
    try:
        if reset:
            RESET_PEAK.write_text('5')
        lines = STATUS.read_text().splitlines()
    except OSError:  # another system
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f'{key}:'))


class Refusal(str):
    """A message of ours in place of a result."""


def outcome(call: Callable[[], Any], *names: str, lines: bool = False) -> Any:
    """The result of a call, or the ``Refusal`` that a user of a tool would see.

    Any error that ``report_bad_input`` does not take for one of this package comes through, and fails the test.

    Args:
        call: What a tool would do.
        names: One of them has to be in the message: of a file, a key.
        lines: The message may be of several lines.
    """
    results = []
    try:
        with limits():
            report_bad_input(lambda: results.append(call()))()
    except SystemExit as end:
        message = str(end.code)
        assert message.startswith('error: ')
        assert len(message) > len('error: ')
        assert lines or '\n' not in message, message
        assert not names or any(name in message for name in names), message
        return Refusal(message)
    return results[0]


@st.composite
def damaged(draw: st.DrawFn, files: Mapping[str, bytes], most: int = 3) -> tuple[str, bytes]:
    """One of some files, by its name, and its bytes after one to ``most`` damages; the first bytes are hit most."""
    name = draw(st.sampled_from(sorted(files)))
    data = files[name]
    for _ in range(draw(st.integers(1, most))):
        data = draw(st.sampled_from(DAMAGES))(draw, data, files)
    return name, data


def _place(draw: st.DrawFn, data: bytes) -> int:
    end = max(len(data) - 1, 0)
    return draw(st.integers(0, min(HEADER, end)) | st.integers(0, end))


def _cut(draw: st.DrawFn, data: bytes, files: Mapping) -> bytes:
    return data[: _place(draw, data)]


def _flip(draw: st.DrawFn, data: bytes, files: Mapping) -> bytes:
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 6)) if data else 0):
        changed[_place(draw, data)] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def _overwrite(draw: st.DrawFn, data: bytes, files: Mapping) -> bytes:
    start = _place(draw, data)
    extremes = st.sampled_from([b'\0', b'\0\0', bytes(4), b'\xff', b'\xff\xff', b'\xff\xff\xff\xff', b'\x7f\xff\xff\xff'])
    new = draw(extremes | st.binary(min_size=1, max_size=8))
    return data[:start] + new + data[start + len(new) :]


def _delete(draw: st.DrawFn, data: bytes, files: Mapping) -> bytes:
    start = _place(draw, data)
    return data[:start] + data[start + draw(st.integers(1, 64)) :]


def _repeat(draw: st.DrawFn, data: bytes, files: Mapping) -> bytes:
    start, length = _place(draw, data), draw(st.integers(1, 64))
    return data[: start + length] + data[start:]


def _splice(draw: st.DrawFn, data: bytes, files: Mapping) -> bytes:
    other = files[draw(st.sampled_from(sorted(files)))]
    return data[: _place(draw, data)] + other[_place(draw, other) :]


def _append(draw: st.DrawFn, data: bytes, files: Mapping) -> bytes:
    return data + draw(st.binary(min_size=1, max_size=64) | st.just(bytes(4096)))


DAMAGES = (_cut, _flip, _flip, _overwrite, _overwrite, _delete, _repeat, _splice, _append)

NUMBERS = (
    st.integers(-3, 300)
    | st.sampled_from([2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 10**400, 0.5, -0.0, 1e308, float('nan'), float('inf')])
    | st.floats(-1e4, 1e4)
)
TEXTS = st.text(max_size=12) | st.sampled_from(['', ' ', '1', 'cat', '0.png', '../x', 'a\0b', '\ud800', '${x}', '{{ x }}'])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of all values of nested dicts and lists, the whole first."""
    yield path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def put(node: Any, path: tuple, value: Any) -> Any:
    """A copy with another value at a path."""
    if not path:
        return value
    first, *rest = path
    changed = dict(node) if isinstance(node, dict) else list(node)
    changed[first] = put(node[first], tuple(rest), value)
    return changed


def dropped(node: Any, path: tuple) -> Any:
    """A copy without what lies at a path, of one part or more."""
    first, *rest = path
    changed = dict(node) if isinstance(node, dict) else list(node)
    if rest:
        changed[first] = dropped(node[first], tuple(rest))
    else:
        del changed[first]
    return changed


@st.composite
def mutated(draw: st.DrawFn, valid: Any, values: st.SearchStrategy = JSON, most: int = 3) -> Any:
    """A JSON value with one to ``most`` parts replaced by any other, left out, or exchanged with another part of it."""
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from(list(places(valid))))
        if draw(st.integers(0, 3)) == 0 and path:
            valid = dropped(valid, path)
        elif draw(st.integers(0, 3)) == 0:
            other = valid
            for key in draw(st.sampled_from(list(places(valid)))):
                other = other[key]
            valid = put(valid, path, other)
        else:
            valid = put(valid, path, draw(values))
    return valid
