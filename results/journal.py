"""The journal: one JSON line an event, only ever added to; the one truth about a run.

A line is written in one piece, flushed and synced before the search goes on, so that a killed
driver loses at most the line it was writing. Such a torn last line is dropped on resuming.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from paretax.errors import UsageError

FORMAT = 1
FILE = "journal.jsonl"

Event = dict[str, Any]


def check_folder(folder: Path, *, resume: bool) -> None:
    """Refuse to start a run where one is, and to resume one where none is.

    Raises:
        UsageError: says which of the two, and how to go on.
    """
    exists = (folder / FILE).exists()
    if exists and not resume:
        raise UsageError(
            f"the run {str(folder)!r} exists: pass --resume to go on with it, "
            "or another --out to start a new one"
        )
    if resume and not exists:
        raise UsageError(
            f"there is no run to resume in {str(folder)!r}: check --out, or leave out --resume"
        )


class Journal:
    """Writes events to a run's journal; one writer at a time, held by a lock of the system.

    Args:
        folder: of the run; made where it is missing.
        resume: go on with a journal that is there.

    Raises:
        UsageError: the run is in use by another process, exists but is not to be resumed, or is to
            be resumed but does not exist.
    """

    def __init__(self, folder: Path, *, resume: bool = False) -> None:
        check_folder(folder, resume=resume)
        path = folder / FILE
        folder.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UsageError(
                f"the run {str(folder)!r} is in use by another process: wait for it, or stop it"
            ) from None
        self._drop_torn_line()

    def _drop_torn_line(self) -> None:
        self._file.seek(0)
        whole = self._file.read().rfind(b"\n") + 1
        self._file.truncate(whole)

    def append(self, event: Event) -> None:
        """Write an event, and return when it is on the disk."""
        line = json.dumps(event, separators=(",", ":"), allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the run."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def has_events(folder: Path) -> bool:
    """Whether a whole line stands in the journal; a driver may be killed before the first."""
    path = folder / FILE
    return path.is_file() and b"\n" in path.read_bytes()


def read_events(folder: Path) -> Iterator[Event]:
    """The events of a run, in their order; a torn last line is passed over.

    Raises:
        UsageError: there is no journal, it is of another version, or a line in it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{str(folder)!r} is no run: it has no {FILE}; check the path")
    lines = path.read_bytes().split(b"\n")[:-1]
    if not lines:
        raise UsageError(f"the journal of {str(folder)!r} is empty: delete it and start again")
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, Mapping) or "event" not in event:
            raise UsageError(
                f"line {number} of {str(path)!r} is damaged: restore the file from a copy"
            )
        if number == 1:
            _check_format(event, path)
        yield dict(event)


def _check_format(event: Mapping[str, Any], path: Path) -> None:
    if event["event"] != "run":
        raise UsageError(f"{str(path)!r} does not start with a run: restore it from a copy")
    if event.get("format") != FORMAT:
        raise UsageError(
            f"{str(path)!r} has journal format {event.get('format')!r}, and this version of "
            f"paretax reads format {FORMAT}: use the paretax that wrote it ({event.get('paretax')})"
        )
