"""What a person need not read of a run: reports and notices of the libraries below, which go to the log file."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import FrameType
from typing import Any, TextIO

LIBRARIES = {'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'pycocotools'}
FILE_ONLY = {'file_only': True}  # ``extra`` of a record of ours that is a detail
# Warnings of these libraries about their own code, or settings that are meant.
NOISE = (
    r'"FileClient" will be deprecated in future',
    r'"HardDiskBackend" is the alias of',
    r'The prefix is not set in metric class',
    r'Default ``avg_non_ignore`` is False',
    r'The draw is False, it means that the hook for visualization',
    r'`resume_param_scheduler` is True but `self.param_schedulers` is None',
    r'faster_coco_eval is not installed',
    r'Setting (OMP|MKL)_NUM_THREADS environment variable for each process',
)
LOGGING = ('logging', 'mmengine.logging.logger', __name__)


def ignore_noise() -> None:
    """Has Python drop the warnings of ``NOISE``."""
    for message in NOISE:
        warnings.filterwarnings('ignore', message=message, category=UserWarning, module='mm')


def speaks_library(frame: FrameType | None) -> bool:
    """Whether the code that logs or prints is that of a library: the innermost frame that is not one of logging itself."""
    while frame is not None and frame.f_globals.get('__name__') in LOGGING:
        frame = frame.f_back
    return frame is not None and frame.f_globals.get('__name__', '').partition('.')[0] in LIBRARIES


class Prints:
    """Stands in for a standard stream; what libraries print is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        (self.take if speaks_library(sys._getframe(1)) else self.print)(text)
        return len(text)

    def take(self, text: str) -> None:
        """What a library prints."""

    def print(self, text: str) -> None:
        """What anyone else does."""
        self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def hushed() -> Iterator[None]:
    """Drops what libraries print, and ``NOISE``: they do so when they are imported, before there is a log file."""
    with warnings.catch_warnings(), redirect_stdout(sys.stdout and Prints(sys.stdout)):
        ignore_noise()
        yield


class PersonFilter(logging.Filter):
    """Lets through warnings and errors, and what this package or the user's own code reports."""

    def filter(self, record: logging.LogRecord) -> bool:
        from_library = speaks_library(sys._getframe())
        if record.levelno >= logging.WARNING:
            return not (from_library and any(re.match(text, str(record.msg)) for text in NOISE))
        return not (from_library or getattr(record, 'file_only', False))
