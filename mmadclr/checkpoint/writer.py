"""Writes checkpoints in the background during training."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmadclr.checkpoint.run_files import write_checkpoint
from mmadclr.checkpoint.snapshots import snapshot


class CheckpointWriter:
    """Writes one checkpoint at a time in a background thread while training continues.

    A checkpoint that cannot be written is reported, and older ones are kept: they are pruned only after a newer one is on
    disk.

    Args:
        report: Called with a one-line message about a failure.
        then: Called in the thread after each successful write; prunes older checkpoints.
    """

    def __init__(self, report: Callable[[str], None], then: Callable[[], None]) -> None:
        self.report, self.then = report, then
        self.thread: threading.Thread | None = None
        self.failure: str | None = None

    def write(self, content: dict[str, Any], path: Path) -> None:
        """Starts to write the current state of ``content``.

        It is copied after the previous checkpoint is on disk, so that there is never more than one copy.
        """
        self.wait()
        self.thread = threading.Thread(target=self._write, args=(snapshot(content), path), name='checkpoint writer')
        self.thread.start()

    def wait(self) -> None:
        """Blocks until no checkpoint is being written."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def _write(self, content: dict[str, Any], path: Path) -> None:
        try:
            write_checkpoint(content, path)
        except (OSError, RuntimeError) as error:  # torch raises either for a full disk
            self.failure = f'{path} could not be written ({error})'
            self.report(f'{self.failure}; training continues, and earlier checkpoints are kept')
        else:
            self.failure = None
            self.then()
