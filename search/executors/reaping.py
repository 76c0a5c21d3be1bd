"""Ends what is left of Ray when the driver ends, however that ends.

Ray's agents notice some seconds late that their raylet has died, and much later where its control
store is gone as well; a worker that was stopped never does. So a small process waits at a pipe from
the driver, which the system closes when the driver dies, and then kills what Ray has left behind.
It runs this file as a program.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache

import psutil

_SECONDS = 3.0  # for which it looks, after a driver that was killed
_EVERY = 0.2
_ENDED = "ended"


class Reaper:
    """The process that waits, as the driver sees it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for the driver alone
        )

    def close(self) -> None:
        """Have it kill what is left, now that Ray was told to end."""
        with suppress(BrokenPipeError):  # whoever killed it wanted that
            self._process.communicate(_ENDED)


def main() -> None:
    """Wait until the driver ends; then kill the processes of Ray that have lost their raylet."""
    once = sys.stdin.read() == _ENDED
    end = time.monotonic() + _SECONDS
    while True:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if _is_left_behind(process):
                    process.kill()
        if once or time.monotonic() >= end:
            return
        time.sleep(_EVERY)


def _is_left_behind(process: psutil.Process) -> bool:
    """Whether it is a part of Ray, of this user, that a raylet has started which is no more."""
    if process.uids().real != os.getuid():
        return False
    # They name themselves once they have loaded; until then they run a file of Ray's.
    if not (process.name().startswith("ray::") or any(map(_is_of_ray, process.cmdline()[1:4]))):
        return False
    parent = process.parent()
    return parent is None or parent.name() != "raylet"


@cache
def _folders() -> tuple[str, ...]:
    found = importlib.util.find_spec("ray")
    return tuple(found.submodule_search_locations or ()) if found is not None else ()


def _is_of_ray(word: str) -> bool:
    return any(word.startswith(f"{folder}{os.sep}") for folder in _folders())


if __name__ == "__main__":
    main()
