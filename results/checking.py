"""What is damaged in a run, and a new run with all that is not."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from paretax.errors import UsageError, described, shown
from paretax.results.journal import (
    FILE,
    FORMAT,
    Journal,
    check_folder,
    empty_journal,
    read_journal,
    scan,
)
from paretax.results.manifest import checksum
from paretax.results.run import MISFITS, Fold, Run
from paretax.results.sealing import Event
from paretax.results.teaching import LESSON
from paretax.results.weights import weights_file, weights_state


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What is left of a run.

    Args:
        folder: of the run.
        events: those that are as they were written, and fit each other; the header first.
        run: as these events tell; None where the header is lost.
        weights: the trials whose files of weights can be used.
        unchecked: of how many of these the journal, of an earlier version, holds no checksum.
        damages: what is not as it was written, in words, each with its place.
        torn: whether the writer was killed while it wrote the last line, which is no damage.
    """

    folder: Path
    events: tuple[Event, ...]
    run: Run | None
    weights: tuple[int, ...]
    unchecked: int
    damages: tuple[str, ...]
    torn: bool

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damages


def check_run(folder: Path) -> Checked:
    """Read all of a run, and go on after damage.

    An event of a trial that is lost is lost with it.

    Raises:
        UsageError: it is no run, or its journal is empty or of another version.
    """
    content = read_journal(folder)
    damages: list[str] = []
    events: list[Event] = []
    fold: Fold | None = None
    end = 0
    for line in scan(content, folder / FILE):
        end = line.end
        if line.event is None:
            damages.append(f"line {line.number} of {FILE}: {line.damage}")
            continue
        if fold is None and line.number == 1:
            fold = Fold(folder, line.event)
        elif fold is not None:
            try:
                fold.add(line.event)
            except MISFITS as error:
                damages.append(
                    f"line {line.number} of {FILE}: it does not fit those before it "
                    f"({shown(line.event['event'], str)}: {described(error)})"
                )
                continue
        events.append(line.event)
    if not events and not damages:
        raise empty_journal(folder)
    run = None if fold is None else fold.run()
    states = {t.number: weights_state(folder, t) for t in (run.trials if run else ())}
    damages += [
        f"{weights_file(folder, n).relative_to(folder)}: its SHA-256 is another than the journal's"
        for n, state in states.items()
        if state == "changed"
    ]
    if run is not None and lesson_changed(run):
        damages.append(f"{LESSON}: its SHA-256 is another than the journal's")
    return Checked(
        folder=folder,
        events=tuple(events),
        run=run,
        weights=tuple(n for n, state in states.items() if state in ("whole", "unchecked")),
        unchecked=sum(state == "unchecked" for state in states.values()),
        damages=tuple(damages),
        torn=len(content) > end + content.endswith(b"\n"),
    )


def repair(checked: Checked, out: Path) -> Run:
    """Write what is left of a run as a new one, which can be read and gone on with.

    Trials keep their numbers. Files of weights that were changed stay behind; their trials are
    trained again where need be.

    Raises:
        UsageError: its first line is lost, or there is a run in `out`.
    """
    if checked.run is None:
        raise UsageError(
            f"the first line of {str(checked.folder / FILE)!r} is lost, and with it what was "
            "searched: nothing can be saved without it; restore the file from a copy"
        )
    check_folder(out, resume=False)
    header, *events = checked.events
    with Journal(out) as journal:
        journal.append({**header, "format": FORMAT})
        for event in events:
            journal.append(event)
        journal.append({"event": "repaired", "time": time.time(), "lost": list(checked.damages)})
    for number in checked.weights:
        copy = weights_file(out, number)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(weights_file(checked.folder, number), copy)
    if (checked.folder / LESSON).is_file() and not lesson_changed(checked.run):
        shutil.copyfile(checked.folder / LESSON, out / LESSON)
    return Run.open(out)


def lesson_changed(run: Run) -> bool:
    """Whether the file of what the teacher says is there, and not as it was written."""
    place = run.folder / LESSON
    return run.lesson is not None and place.is_file() and checksum(place) != run.lesson
