"""Switches Python's automatic garbage collection off and on in one process."""

from __future__ import annotations

import gc
import os


class Switch:
    """Disables automatic collection in this process only; workers started meanwhile collect as usual."""

    def __init__(self) -> None:
        self.is_off = self.was_enabled = self.follows_forks = False

    def off(self) -> None:
        if not self.follows_forks:
            os.register_at_fork(after_in_child=self.on)
            self.follows_forks = True
        if not self.is_off:
            self.is_off, self.was_enabled = True, gc.isenabled()
        gc.disable()

    def on(self) -> None:
        """Restores the previous setting."""
        if self.is_off and self.was_enabled:
            gc.enable()
        self.is_off = False


SWITCH = Switch()
