"""The journal: one JSON line an event, only ever added to; the one truth about a run.

A line is written in one piece, flushed and synced before the search goes on, so that a killed
driver loses at most the line it was writing. Such a torn last line is dropped on resuming. Each
line is sealed (see `sealing`): what was changed since is refused, with the number of its line.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretax.errors import UsageError, shortened, shown
from paretax.results.sealing import DamagedLineError, Event, Seal, as_event, is_sealed

FORMAT = 2
FILE = "journal.jsonl"

_UNSEALED = 1
"""The format of before: its lines have no checksums. They are covered from the first one that
is added by this version."""


SAVE = "`paretax check RUN --repair` saves what can be saved into a new folder"


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
        UsageError: the run is in use by another process, exists but is not to be resumed, is to
            be resumed but does not exist, or is damaged.
    """

    def __init__(self, folder: Path, *, resume: bool = False) -> None:
        check_folder(folder, resume=resume)
        path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise UsageError(
                f"the run {str(folder)!r} cannot be written ({error.strerror}: "
                f"{str(error.filename)!r}): name a folder of your own with --out"
            ) from error
        try:
            self._lock(folder)
            self._seal = self._drop_torn_line(path)
        except BaseException:
            self._file.close()
            raise

    def _lock(self, folder: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"the run {str(folder)!r} is in use by another process: wait for it, or stop it"
            ) from None

    def _drop_torn_line(self, path: Path) -> Seal:
        self._file.seek(0)
        content, end, seal = self._file.read(), 0, Seal()
        for _, line in whole_lines(content, path):
            end, seal = line.end, line.seal
        if content[end:] != b"\n":
            self._file.truncate(end)
            if end:
                self._write(b"\n")
        return seal

    def append(self, event: Event) -> None:
        """Write an event, and return when it is on the disk."""
        line, seal = self._seal.close(event)
        self._write(line + b"\n")
        self._seal = seal

    def _write(self, content: bytes) -> None:
        """Without a buffer: what a full disk takes of it is a torn line, and no more."""
        while content:
            content = content[self._file.write(content) :]
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
    if not path.is_file():
        return False
    content = path.read_bytes()
    return b"\n" in content or any(True for _ in whole_lines(content, path))


def read_events(folder: Path) -> Iterator[Event]:
    """The events of a run, in their order; a torn last line is passed over.

    Raises:
        UsageError: there is no journal, it is of another version, or a line in it is damaged. The
            events before a damaged line come first.
    """
    empty = True
    for event, _ in whole_lines(read_journal(folder), folder / FILE):
        empty = False
        yield event
    if empty:
        raise empty_journal(folder)


def empty_journal(folder: Path) -> UsageError:
    """An error for a journal without a whole line."""
    return UsageError(f"the journal of {str(folder)!r} is empty: delete it and start again")


def read_journal(folder: Path) -> bytes:
    """The file as it is. Raises UsageError where there is none."""
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{str(folder)!r} is no run: it has no {FILE}; check the path")
    return path.read_bytes()


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a journal.

    Args:
        number: its place, from 1.
        event: that it holds; None where it is not as it was written.
        end: where it ends in the file, its newline left out.
        seal: what stands before the next one.
        damage: what is wrong with it; empty where nothing is.
    """

    number: int
    event: Event | None
    end: int
    seal: Seal
    damage: str = ""


def whole_lines(content: bytes, path: Path) -> Iterator[tuple[Event, Line]]:
    """The events of a journal, each with its line; a torn last one is passed over.

    Args:
        content: of the file.
        path: of the file, for messages.

    Raises:
        UsageError: the journal is of another version, or a line is damaged.
    """
    for line in scan(content, path):
        if line.event is None:
            before = f"the {line.number - 1} before it are whole; " if line.number > 1 else ""
            raise UsageError(
                f"line {line.number} of {str(path)!r} is damaged: {line.damage}; {before}{SAVE}"
            )
        yield line.event, line


def scan(content: bytes, path: Path) -> Iterator[Line]:
    """The lines of a journal, damaged ones as well; a torn last one is passed over.

    A line after a damaged one is believed where it fits what the damaged one says of itself.

    Args:
        content: of the file.
        path: of the file, for messages.

    Raises:
        UsageError: the journal is of another version.
    """
    *lines, rest = content.split(b"\n")
    end, seal, sealed = 0, Seal(), False
    for number, line in enumerate(lines, 1):
        end += len(line) + (number > 1)
        sealed = sealed or is_sealed(line)
        event, damage = None, ""
        try:
            event, after = seal.open(line) if sealed else (as_event(line), seal.covering(line))
            if number == 1:
                _check_format(event, path, sealed)
        except DamagedLineError as error:
            event, after, damage = None, seal.after(line), str(error)
        seal = after
        yield Line(number=number, event=event, end=end, seal=seal, damage=damage)
    number, end = len(lines) + 1, end + len(rest) + bool(lines)
    if seal.starts(rest):  # a line that is torn ends before its checksum does
        damage = "it goes on after its checksum"
        yield Line(number=number, event=None, end=end, seal=seal.after(rest), damage=damage)
    elif seal.fits(rest):  # the writer was killed before the newline
        event, seal = seal.open(rest)
        yield Line(number=number, event=event, end=end, seal=seal)


def _check_format(event: Mapping[str, Any], path: Path, sealed: bool) -> None:
    if event["event"] != "run":
        raise UsageError(f"{str(path)!r} does not start with a run: restore it from a copy")
    form = event.get("format")
    if form == FORMAT and not sealed:
        raise DamagedLineError("it has no checksum")
    if type(form) is not int or form not in (_UNSEALED, FORMAT):
        raise UsageError(
            f"{str(path)!r} has journal format {shown(form)}, and this version of paretax reads "
            f"formats {_UNSEALED} and {FORMAT}: use the paretax that wrote it "
            f"({shortened(str(event.get('paretax')))})"
        )
