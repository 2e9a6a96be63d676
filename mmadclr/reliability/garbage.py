"""Turning Python's automatic garbage collection off for a while, in one process alone."""

from __future__ import annotations

import gc
import os


class Switch:
    """Turns automatic collection off in this process alone: workers started meanwhile collect as ever."""

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
        """As it was."""
        if self.is_off and self.was_enabled:
            gc.enable()
        self.is_off = False


SWITCH = Switch()
