"""What the log file of a run tells: messages, the summary of its settings, its machine, and how it ended."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

HEAD = re.compile(r'(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - \S+ - (DEBUG|INFO|WARNING|ERROR|CRITICAL) - (.*)', re.DOTALL)
STAMP = '%Y/%m/%d %H:%M:%S'
KEPT_LINES = 400  # of one message: the dumped config and the list of hooks are long
FACTS = ('method', 'backbone', 'data', 'batch', 'length', 'device', 'rate', 'work dir', 'log', 'start', 'weights')
ENVIRONMENT = ('Python', 'PyTorch', 'TorchVision', 'OpenCV', 'MMEngine')
PAUSE = re.compile(r'Saving checkpoint \S+ \(training paused for ([\d.]+) s\)')
RESUMED = re.compile(r'resumed after ([\d,]+) iteration')
# Words of libraries about themselves, which say nothing about a run.
NOISE = (
    *('will be deprecated in future', 'is the alias of', 'The prefix is not set in metric class'),
    '`resume_param_scheduler` is True but `self.param_schedulers` is None',
)


class Message(NamedTuple):
    """One message of a log."""

    time: datetime
    level: str
    text: str


class Log(NamedTuple):
    """What is kept of one log file.

    Attributes:
        began, ended: Times of the first and last message.
        facts: Rows of the summary at the start: ``method``, ``backbone``, ``data``, ...
        machine: Versions and devices.
        warnings: Warnings and errors, without those of libraries about themselves.
        done: Whether training completed.
        pauses: Seconds that training waited for each checkpoint.
    """

    began: datetime | None = None
    ended: datetime | None = None
    facts: Mapping[str, str] = MappingProxyType({})
    machine: Mapping[str, str] = MappingProxyType({})
    warnings: tuple[Message, ...] = ()
    done: bool = False
    pauses: tuple[float, ...] = ()

    @property
    def resumed_after(self) -> int | None:
        """Iterations that were done when the run started here; None if it is unknown."""
        found = RESUMED.search(self.facts.get('start', ''))
        if found:
            return int(found[1].replace(',', ''))
        return 0 if 'start' in self.facts else None


def read_log(path: Path) -> Log:
    """Reads a log file; bytes that are not UTF-8 are replaced."""
    with path.open(encoding='utf-8', errors='replace') as file:
        return summarize(messages(file))


def summarize(found: Iterable[Message]) -> Log:
    """What is kept of the messages of a log."""
    times: list[datetime] = []
    facts: dict[str, str] = {}
    machine: dict[str, str] = {}
    warnings, pauses, done = [], [], False
    for message in found:
        times = [*times[:1], message.time]
        if message.level in ('WARNING', 'ERROR', 'CRITICAL'):
            if not any(part in message.text for part in NOISE):
                warnings.append(message)
        elif 'System environment:' in message.text:
            machine |= environment(message.text)
        elif message.text.startswith('method ') and '\n' in message.text:
            facts |= summary_rows(message.text)
        elif message.text.startswith('done '):
            done = True
        else:
            pauses += [float(seconds) for seconds in PAUSE.findall(message.text)]
    began, ended = (times[0], times[-1]) if times else (None, None)
    return Log(began, ended, facts, machine, tuple(warnings), done, tuple(pauses))


def messages(lines: Iterable[str]) -> Iterator[Message]:
    """Messages with their continuation lines."""
    head: re.Match[str] | None = None
    rest: list[str] = []
    for line in lines:
        found = HEAD.match(line.rstrip('\n'))
        if found is None:
            if len(rest) < KEPT_LINES:
                rest.append(line.rstrip('\n'))
            continue
        if head is not None:
            yield as_message(head, rest)
        head, rest = found, []
    if head is not None:
        yield as_message(head, rest)


def as_message(head: re.Match, rest: list[str]) -> Message:
    return Message(datetime.strptime(head[1], STAMP), head[2], '\n'.join([head[3], *rest]))


def summary_rows(text: str) -> dict[str, str]:
    """Rows of the summary at the start of a run."""
    rows = {}
    for line in text.splitlines():
        name = next((name for name in FACTS if line.startswith(name.ljust(9))), None)
        if name:
            rows[name] = line[9:].strip()
    return rows


def environment(text: str) -> dict[str, str]:
    """Versions and devices of mmengine's description of the system."""
    rows = {}
    for line in text.splitlines():
        name, colon, value = line.strip().partition(': ')
        if colon and (name in ENVIRONMENT or name.startswith('GPU ')):
            rows[name] = value.partition(' (main')[0].partition(' (default')[0]
    return rows
