"""What a person need not read of a run: reports and notices of the libraries below, which go to the log file."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from types import FrameType

LIBRARIES = {'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'pycocotools'}
FILE_ONLY = {'file_only': True}  # ``extra`` of a record of ours that is a detail
# Warnings of these libraries about their own code, or settings that are meant.
NOISE = (
    r'"FileClient" will be deprecated in future',
    r'"HardDiskBackend" is the alias of',
    r'The prefix is not set in metric class',
    r'Default ``avg_non_ignore`` is False',
    r'The draw is False, it means that the hook for visualization',
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


class PersonFilter(logging.Filter):
    """Lets through warnings and errors, and what this package or the user's own code reports."""

    def filter(self, record: logging.LogRecord) -> bool:
        from_library = speaks_library(sys._getframe())
        if record.levelno >= logging.WARNING:
            return not (from_library and any(re.match(text, str(record.msg)) for text in NOISE))
        return not (from_library or getattr(record, 'file_only', False))
