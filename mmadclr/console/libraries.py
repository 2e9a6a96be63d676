"""Messages of libraries that are written only to the log file, not to the terminal."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import FrameType
from typing import Any, TextIO

from mmengine.logging import MMLogger

LIBRARIES = {'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'pycocotools'}
FILE_ONLY = {'file_only': True}  # ``extra`` of our log records that are details
# Warnings of these libraries about their own code, or about settings that are intended.
NOISE = (
    r'"FileClient" will be deprecated in future',
    r'"HardDiskBackend" is the alias of',
    r'The prefix is not set in metric class',
    r'Default ``avg_non_ignore`` is False',
    r'The draw is False, it means that the hook for visualization',
    r'`resume_param_scheduler` is True but `self.param_schedulers` is None',
    r'Please make sure that the mlflow server is running',
    r'faster_coco_eval is not installed',
    r'Setting (OMP|MKL)_NUM_THREADS environment variable for each process',
)
NO_DEVICE = "'pin_memory' argument is set as true but no accelerator is found"  # configs are for all machines
LOGGING = ('logging', 'mmengine.logging.logger', __name__)


def ignore_noise() -> None:
    """Makes Python ignore the warnings of ``NOISE`` and ``NO_DEVICE``."""
    warnings.filterwarnings('ignore', message=NO_DEVICE, category=UserWarning, module='torch')
    for message in NOISE:
        warnings.filterwarnings('ignore', message=message, category=UserWarning, module='mm')


def speaks_library(frame: FrameType | None) -> bool:
    """Whether a library logs or prints, judged by the innermost frame outside the logging modules."""
    while frame is not None and frame.f_globals.get('__name__') in LOGGING:
        frame = frame.f_back
    return frame is not None and frame.f_globals.get('__name__', '').partition('.')[0] in LIBRARIES


class Prints:
    """Replaces a standard stream and drops the output of libraries."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        (self.take if speaks_library(sys._getframe(1)) else self.print)(text)
        return len(text)

    def take(self, text: str) -> None:
        """Handles output of a library."""

    def print(self, text: str) -> None:
        """Handles all other output."""
        self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def hushed() -> Iterator[None]:
    """Drops the output of libraries and ``NOISE`` during imports, when there is no log file yet."""
    with warnings.catch_warnings(), redirect_stdout(sys.stdout and Prints(sys.stdout)):
        ignore_noise()
        yield


class PersonFilter(logging.Filter):
    """Passes warnings, errors, and messages of this package and of user code."""

    def filter(self, record: logging.LogRecord) -> bool:
        from_library = speaks_library(sys._getframe())
        if record.levelno >= logging.WARNING:
            return not (from_library and any(re.match(text, str(record.msg)) for text in NOISE))
        return not (from_library or getattr(record, 'file_only', False))


@contextmanager
def without_messages() -> Iterator[None]:
    """Drops messages below warnings: what is told elsewhere, or is not about what is done here."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
