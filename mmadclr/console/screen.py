"""Terminal output of a run: messages, and below them one line that is rewritten."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import TextIO

from tqdm import tqdm

from mmadclr.annotations import MaybeNone
from mmadclr.console.libraries import FILE_ONLY, PersonFilter, Prints

GAP = '  '
SMALLEST_BAR = 12  # columns


class Line(tqdm):
    """tqdm's progress bar without its monitor thread."""

    monitor_interval = 0


Line.set_lock(threading.RLock())


class MessageFormatter(logging.Formatter):
    """Formats ``warning: text``, ``error: text``, or only the text."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f'{record.levelname.lower()}: {text}'


class Console(logging.StreamHandler):
    """Replaces the console handler of a logger; the log file has its own handler.

    If the reader of the output closes it (``| head``), further output is lost, but the run continues.

    Attributes:
        is_terminal: Whether a line can be rewritten.
        is_quiet: Whether only errors are printed, as on all processes except the first.
    """

    lock: threading.RLock  # never None, unlike in the type of the base class

    def __init__(self, before: logging.StreamHandler) -> None:
        super().__init__(before.stream)
        self.setLevel(before.level)
        self.setFormatter(MessageFormatter())
        self.filters = [PersonFilter(), *before.filters]
        self.is_quiet = before.level > logging.INFO
        self.is_terminal = before.stream.isatty() and os.environ.get('TERM') != 'dumb'
        self.process = os.getpid()
        self.line: Line | MaybeNone = None
        self.is_shown = False  # the line
        self.is_open = False  # whether the last output did not end its line

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write(f'{self.format(record)}{self.terminator}')
        except Exception:  # as in the base class: output errors must not end a run
            self.handleError(record)

    def write(self, text: str, stream: TextIO | None = None) -> None:
        """Writes text above the line, by default to the stream of the console."""
        with self.lock:
            self.hide()
            stream = stream or self.stream
            try:
                stream.write(text)
                stream.flush()
            except BrokenPipeError:
                disconnect(stream)
            self.is_open = not text.endswith('\n')
            if self.line is not None and not self.is_open and os.getpid() == self.process:  # not in loader workers
                self.draw()

    def show(self, fields: Sequence[str], share: float) -> None:
        """Rewrites the line: the fields that fit, in order of priority, and a bar filled to ``share``."""
        with self.lock:
            if self.line is None:
                self.line = Line(total=1, file=self.stream, leave=False, position=0, delay=1e9)
            width = columns(self.stream) - 1  # some terminals wrap after the last column
            text = fit(fields, width)
            self.line.ncols, self.line.n, self.line.desc = width, min(share, 1.0), text
            self.line.bar_format = f'{{desc}}{GAP}{{bar}}' if width - len(text) >= SMALLEST_BAR else '{desc}'
            if not self.is_open:
                self.draw()

    def draw(self) -> None:
        with suppress(OSError):  # a terminal that was closed
            self.line.refresh(nolock=True)
            self.is_shown = True

    def hide(self) -> None:
        if self.is_shown:
            with suppress(OSError):
                self.line.clear(nolock=True)
        self.is_shown = False

    def end_line(self) -> None:
        """Removes the line."""
        with self.lock:
            self.hide()
            self.line = None

    @contextmanager
    def listening(self, logger: logging.Logger) -> Iterator[None]:
        """Sends output of libraries to ``logger``, and prints all other output above the line."""
        with ExitStack() as stack:
            stack.callback(self.end_line)
            if sys.stdout is not None:
                stack.enter_context(redirect_stdout(PrintsAbove(sys.stdout, self, logger)))
            if sys.stderr is not None and self.is_terminal:
                stack.enter_context(redirect_stderr(ErrorsAbove(sys.stderr, self, logger)))
            yield


class PrintsAbove(Prints):
    """Prints output above the line, and sends complete lines of libraries to a logger."""

    def __init__(self, stream: TextIO, console: Console, logger: logging.Logger) -> None:
        super().__init__(stream)
        self.console, self.logger, self.pending = console, logger, ''

    def take(self, text: str) -> None:
        *lines, self.pending = (self.pending + text).split('\n')
        for line in lines:
            self.logger.info(line, extra=FILE_ONLY)

    def print(self, text: str) -> None:
        self.console.write(text, self.stream)


class ErrorsAbove(PrintsAbove):
    """Prints all output above the line, including that of libraries."""

    take = PrintsAbove.print


def columns(stream: TextIO) -> int:
    """Width of the terminal; 80 if it is unknown."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def fit(fields: Sequence[str], width: int) -> str:
    """The fields that fit into ``width``, in order; the first one is cut if necessary."""
    text = fields[0][:width]
    for field in fields[1:]:
        longer = f'{text}{GAP}{field}'
        text = longer if len(longer) <= width else text
    return text


def disconnect(stream: TextIO) -> None:
    """Discards all further output to the stream, without errors."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def open_console(logger: logging.Logger) -> Console | None:
    """Replaces the console handler of a logger of mmengine and returns it; None if there is none."""
    for number, handler in enumerate(logger.handlers):
        if isinstance(handler, Console):
            return handler
        if type(handler) is logging.StreamHandler:
            logger.handlers[number] = console = Console(handler)
            return console
    return None
