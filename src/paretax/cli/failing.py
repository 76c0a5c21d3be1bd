"""How a command ends that could not do its work."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from paretax.cli.saying import say


@contextmanager
def failing_on(*kinds: type[Exception]) -> Iterator[None]:
    """Turn these exceptions into one line on standard error and exit 1."""
    try:
        yield
    except kinds as error:
        say(f"failed: {' '.join(str(error).split())}", error=True)
        sys.exit(1)


def refused_by_the_system(error: OSError) -> str:
    """What the system refused, in one line: a full disk, a folder that may not be written."""
    said = error.strerror or str(error) or type(error).__name__
    where = f": {str(error.filename)!r}" if error.filename is not None else ""
    return " ".join(f"{said[0].lower()}{said[1:]}{where}".split())


_IMPATIENT = 10.0  # seconds after a signal in which another one says nothing new
_AGAIN = 0.05  # seconds until a signal is sent again
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


_received: list[int] = []
"""Signals that were turned into `Ended`; Ray may have made a plain KeyboardInterrupt of one."""


class Ended(KeyboardInterrupt):
    """A signal that ends the process was received.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def leave(error: KeyboardInterrupt) -> NoReturn:
    """End the process as its signal would have: 130 of Ctrl-C, else by the signal itself."""
    number = error.number if isinstance(error, Ended) else (_received or [signal.SIGINT])[-1]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # while Python takes itself apart
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    raise SystemExit(128 + number)


@contextmanager
def ended_once() -> Iterator[None]:
    """Turn the signals that end a process into `Ended`, so that it ends cleanly.

    A second one, such as another Ctrl-C, waits for the clean end that the first one began: it would
    cut that short with a traceback. One after `_IMPATIENT` seconds does so after all. A signal that
    is ignored, as `nohup` has it, still is. One that arrives where Python drops exceptions, such as
    in the destructor of some object, is sent again. Once one was received, all this stays so: what
    comes next is the end of the process (see `leave`).
    """
    before = {number: signal.getsignal(number) for number in _ENDING}
    hook = sys.unraisablehook
    first: list[float] = []
    timers: list[threading.Timer] = []

    def end(number: int, frame: FrameType | None) -> None:
        if first and time.monotonic() - first[0] < _IMPATIENT:
            return
        first.append(time.monotonic())
        _received.append(number)
        raise Ended(number)

    def dropped(given: sys.UnraisableHookArgs) -> None:
        if not isinstance(given.exc_value, Ended):
            hook(given)
            return
        first.clear()
        timers.append(threading.Timer(_AGAIN, os.kill, (os.getpid(), given.exc_value.number)))
        timers[-1].start()

    _received.clear()
    taken = [number for number in _ENDING if before[number] is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, end)
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for timer in timers:
            timer.cancel()
        for number in () if first else taken:
            signal.signal(number, before[number])
