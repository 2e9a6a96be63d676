"""Writes checkpoints beside training."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmadclr.checkpoint.run_files import write_checkpoint
from mmadclr.checkpoint.snapshots import snapshot


class CheckpointWriter:
    """Writes one checkpoint at a time on a thread of its own, so that training goes on meanwhile.

    A checkpoint that cannot be written is reported and costs no other: older ones are cleared away only after a newer one is
    on the disk.

    Args:
        report: Takes a line of text about a failure.
        then: Called on the thread after each checkpoint that was written; clears older ones away.
    """

    def __init__(self, report: Callable[[str], None], then: Callable[[], None]) -> None:
        self.report, self.then = report, then
        self.thread: threading.Thread | None = None
        self.failure: str | None = None

    def write(self, content: dict[str, Any], path: Path) -> None:
        """Starts to write ``content`` as it is now.

        It is copied once the one before is on the disk, so that there is never more than one copy.
        """
        self.wait()
        self.thread = threading.Thread(target=self._write, args=(snapshot(content), path), name='checkpoint writer')
        self.thread.start()

    def wait(self) -> None:
        """Returns when nothing is being written any more."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def _write(self, content: dict[str, Any], path: Path) -> None:
        try:
            write_checkpoint(content, path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as either
            self.failure = f'{path} could not be written ({error})'
            self.report(f'{self.failure}; training goes on, and the checkpoints written before it are kept')
        else:
            self.failure = None
            self.then()
