"""mmengine's runner with readable terminal output."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from mmengine.logging import MMLogger
from mmengine.runner import Runner

from mmadclr.console.libraries import ignore_noise
from mmadclr.console.progress_hook import ProgressHook
from mmadclr.console.screen import Console, open_console


class ConsoleRunner(Runner):
    """Prints summaries, progress, warnings and results; everything else is written only to the log file.

    With ``verbose=True`` in the config, the output is that of mmengine.
    """

    console: Console | None = None

    def setup_env(self, env_cfg: dict) -> None:
        if not self.cfg.get('verbose', False):
            ignore_noise()
        super().setup_env(env_cfg)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        if not self.cfg.get('verbose', False):
            self.console = open_console(logger)
        return logger

    def register_hooks(self, *args: Any, **kwargs: Any) -> None:
        super().register_hooks(*args, **kwargs)
        if self.console is not None:
            self.register_hook(ProgressHook())


def quietly(run: Callable) -> Callable:
    """Decorates methods of the runner: while they run, its console handles all output."""

    @functools.wraps(run)
    def wrapped(runner: ConsoleRunner, *args: Any, **kwargs: Any) -> Any:
        if runner.console is None:
            return run(runner, *args, **kwargs)
        with runner.console.listening(runner.logger):
            return run(runner, *args, **kwargs)

    return wrapped
