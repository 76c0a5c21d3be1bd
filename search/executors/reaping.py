"""Ends what is left of Ray when the driver ends, however that ends.

Ray's agents notice some seconds late that their raylet has died, and much later where its control
store is gone as well; a worker that was stopped never does. So a small process waits at a pipe from
the driver, which the system closes when the driver dies, and then kills what Ray has left behind.
It runs this file as a program.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress

import psutil

_SECONDS = 3.0  # for which it looks
_EVERY = 0.2
_FILES = ("/dashboard/agent.py", "/runtime_env/agent/main.py", "/workers/default_worker.py")
"""What a raylet runs, and nobody else does; once they have loaded, they are named `ray::...`."""


class Reaper:
    """The process that waits, as the driver sees it."""

    def __init__(self) -> None:
        with subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the driver alone
        ) as first:
            assert first.stdin is not None
            self._pipe = os.dup(first.stdin.fileno())  # the one that waits is a child of `first`

    def close(self) -> None:
        """Have it kill what is left, now that Ray was told to end."""
        os.close(self._pipe)


def main() -> None:
    """Wait until the driver ends; then kill the processes of Ray that have lost their raylet."""
    first = os.getpid()
    if os.fork():
        return
    while (adopter := os.getppid()) == first:
        time.sleep(0.01)  # until it has ended, and whoever takes orphans has taken this process
    sys.stdin.read()
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.ppid() == adopter and _is_of_a_raylet(process):
                    process.kill()
        time.sleep(_EVERY)


def _is_of_a_raylet(process: psutil.Process) -> bool:
    """Whether a process of this user is one that only a raylet starts."""
    if process.uids().real != os.getuid():
        return False
    words = process.cmdline()[1:4]
    return process.name().startswith("ray::") or any(word.endswith(_FILES) for word in words)


if __name__ == "__main__":
    main()
