"""Progress: bars on standard error where that is a terminal, else a line now and then."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from paretax.cli.saying import say
from paretax.errors import printable
from paretax.search import Status


def _shown(*columns: ProgressColumn) -> Progress:
    """Columns and the time that went by, on standard error; nothing where that is no terminal."""
    console = Console(stderr=True)
    return Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal)


@contextmanager
def bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar for work of a known length.

    Yields:
        What is told how much is done.
    """
    shown = _shown(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total}"),
    )
    with shown:
        task = shown.add_task(description, total=total)
        yield lambda done: shown.update(task, completed=done)


_EVERY = 10.0  # seconds between lines where nothing but the counts changes


class Bar:
    """Shows the status of a search while it is entered."""

    def __init__(self) -> None:
        self._lines = not sys.stderr.isatty()
        self._phase, self._said = "", -math.inf
        self._bar = _shown(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
        )
        self._task = self._bar.add_task("starting", total=None, text="")
        self._told: str | None = None

    def __call__(self, status: Status) -> None:
        """Show a status; what is wrong with the baseline, at once and once."""
        if status.trouble is not None and status.trouble != self._told:
            self._told = status.trouble
            said = printable(f"{status.trouble}; the search goes on")
            self._bar.console.print(said, markup=False, highlight=False, soft_wrap=True)
        finished = status.done + status.failed + status.rejected + status.stopped
        total = "" if status.total is None else f"/{status.total}"
        volume = "" if status.hypervolume is None else f", hypervolume {status.hypervolume:.3f}"
        text = (
            f"{finished}{total} trials, {status.failed} failed, {status.rejected} rejected; "
            f"front {status.front}{volume}"
        )
        if self._lines:
            self._say(status.phase, text)
            return
        self._bar.update(
            self._task,
            description=f"{status.phase:<16}",
            completed=finished,
            total=status.total,
            text=text,
        )

    def _say(self, phase: str, text: str) -> None:
        """Write a line to standard output: of a new phase soon, else every ten seconds."""
        now = time.monotonic()
        if now - self._said < (1.0 if phase != self._phase else _EVERY):
            return
        self._phase, self._said = phase, now
        say(f"{phase}: {text}", flush=True)

    def __enter__(self) -> Bar:
        self._bar.start()
        if self._lines:
            say("starting", flush=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()


@contextmanager
def telling(every: float = _EVERY / 2) -> Iterator[None]:
    """Say now and then on standard error how many programs were compiled.

    Args:
        every: seconds between two lines; what takes less says nothing.
    """
    handler, log = _Telling(every), logging.getLogger("paretax.compilers")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class _Telling(logging.Handler):
    """What `telling` does with the word that a program was compiled."""

    def __init__(self, every: float) -> None:
        super().__init__(logging.INFO)
        self._every, self._done, self._said = every, 0, time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """A program was compiled for a target."""
        self._done += 1
        if time.monotonic() - self._said >= self._every:
            self._said = time.monotonic()
            target = record.getMessage()
            say(f"programs compiled: {self._done}, the last for {target}", error=True, flush=True)
