"""``benchmarks/gpu.py`` whose parts are forks of its process, which spares each of them the seconds of its imports."""

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

BENCHMARKS = Path(__file__).resolve().parents[2] / 'benchmarks'
sys.path.insert(0, str(BENCHMARKS))

import gpu  # noqa: E402
import step  # noqa: E402
import torch._inductor.compile_fx  # noqa: E402, F401

step.MINI['depth'] = 2  # two blocks take a compiler less time than three, and are the first and the last


class Fork:
    """What the program asks of ``subprocess.Popen``."""

    def __init__(self, command, cwd, stderr, start_new_session) -> None:
        self.code = None
        self.pid = os.fork()
        if self.pid:
            return
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(stderr.fileno(), 2)
        os.chdir(cwd)
        sys.argv = command[1:]
        runpy.run_path(sys.argv[0], run_name='__main__')
        sys.exit()

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, timeout: float = 10) -> int:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired('', timeout)
            time.sleep(0.02)
        return self.code


gpu.subprocess = SimpleNamespace(Popen=Fork, run=subprocess.run, TimeoutExpired=subprocess.TimeoutExpired)
gpu.main()
