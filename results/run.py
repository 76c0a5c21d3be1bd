"""A run, read back from its journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paretax.errors import UsageError, described, shown, unknown
from paretax.evaluators import Failure, Measurement, Objective, Workbench
from paretax.results.final_scores import final_losses, why_it_left
from paretax.results.journal import FILE, SAVE, read_events
from paretax.results.pareto import nondominated
from paretax.results.sealing import Event
from paretax.results.teaching import Teacher, parse_teacher
from paretax.results.trial import Repeat, Trial
from paretax.results.weights import weights_file
from paretax.spaces import Candidate
from paretax.tasks.loading import recorded_task


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a journal tells: the header, the trials, and the point that hypervolumes refer to.

    Args:
        folder: of the run.
        header: the first event: config, objectives, versions, machine.
        trials: by number.
        references: target to (reference point, best point), as losses.
        taught: key of what its teacher said; None where it has none.
        lesson: the SHA-256 of the file that holds it; none in journals of earlier versions.
        fingerprints: of data and code, each with the number of the first trial that it holds for;
            none in journals of earlier versions.
        forced: resumptions on other data or code: how many trials there were, and what differed.
    """

    folder: Path
    header: Mapping[str, Any]
    trials: tuple[Trial, ...]
    references: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]
    taught: str | None = None
    lesson: str | None = None
    fingerprints: tuple[tuple[int, Mapping[str, Any]], ...] = ()
    forced: tuple[tuple[int, tuple[str, ...]], ...] = ()

    @classmethod
    def open(cls, folder: Path | str) -> Run:
        """Read a run.

        Raises:
            UsageError: it is no run, or its journal cannot be read.
        """
        folder = Path(folder)
        return cls.of(folder, read_events(folder))

    @classmethod
    def of(cls, folder: Path, events: Iterator[Event]) -> Run:
        """A run by the events of its journal, the header first.

        Raises:
            UsageError: an event does not fit those before it.
        """
        fold = Fold(folder, next(events))
        for number, event in enumerate(events, 2):
            try:
                fold.add(event)
            except MISFITS as error:
                raise UsageError(
                    f"line {number} of {str(folder / FILE)!r} does not fit those before it "
                    f"({shown(event['event'], str)}: {described(error)}); {SAVE}"
                ) from error
        return fold.run()

    def fingerprint(self, number: int | None = None) -> Mapping[str, Any] | None:
        """Of the data and code that a trial was asked for with; None: that the run ended with."""
        held = [f for first, f in self.fingerprints if number is None or first <= number]
        return held[-1] if held else None

    @property
    def baseline(self) -> Trial | None:
        """The user's own configuration, dense; None in journals of earlier versions."""
        return next((t for t in self.trials if t.baseline), None)

    @property
    def others_have(self) -> dict[str, Any]:
        """What all other trials have where the baseline alone gives a value, by name."""
        return dict(self.header.get("others_have", {}))

    @property
    def task_name(self) -> str:
        """As in the config."""
        return str(self.header["config"]["task"])

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the targets."""
        return tuple(t["name"] for t in self.header["config"]["targets"])

    @property
    def teacher(self) -> Teacher | None:
        """Whom its candidates learned from."""
        plain = self.header["config"].get("teacher")
        folders = [Path(p) for p in self.header["search_path"]]
        return None if plain is None else parse_teacher(plain, folders)

    def workbench(self) -> Workbench:
        """The run's task, as the user named it (see `tasks.loading.recorded_task`)."""
        return Workbench(recorded_task(self.task_name))

    def target(self, name: str | None) -> str:
        """A target of the run; the only one where `name` is None.

        Raises:
            UsageError: the run has no such target, or several and none is named.
        """
        if name is None and len(self.targets) == 1:
            return self.targets[0]
        if name is None:
            raise UsageError(f"the run has several targets, name one: {', '.join(self.targets)}")
        if name not in self.targets:
            raise unknown("target", name, self.targets, f"run {str(self.folder)!r}")
        return name

    def platform(self, target: str) -> str:
        """Which compiler makes programs for a target."""
        return str(self.header["profiles"][target]["compiler"]["platform"])

    def objectives(self, target: str) -> tuple[Objective, ...]:
        """The objectives that hold for a target."""
        plain = [Objective(**o) for o in self.header["objectives"]]
        return tuple(o for o in plain if o.target in (None, target))

    def trial(self, number: int) -> Trial:
        """A trial by its number. Raises UsageError where there is none."""
        for trial in self.trials:
            if trial.number == number:
                return trial
        there = f"trials 0 to {self.trials[-1].number}" if self.trials else "no trial yet"
        lost = " (it was lost to damage)" if self.trials and number < self.trials[-1].number else ""
        raise UsageError(f"the run {str(self.folder)!r} has {there}, got {number}{lost}")

    @property
    def limits(self) -> tuple[Objective, ...]:
        """Everything that has a hard limit; nothing in journals of earlier versions."""
        return tuple(Objective(**o) for o in self.header.get("limits", ()))

    def contenders(self, target: str) -> list[Trial]:
        """The front by the search's own scores, best in the first objective first."""
        return front(self.trials, self.objectives(target))

    def front(self, target: str) -> list[Trial]:
        """The trials that no other one dominates on a target, best in the first objective first.

        Those of `contenders`, by the means over further seeds once they are there.
        """
        return final_front(self.contenders(target), self.objectives(target), self.limits)

    def left(self, target: str) -> list[tuple[Trial, str]]:
        """The contenders that are not on the front any more, each with the reason."""
        staying = {t.number for t in self.front(target)}
        return [
            (t, why_it_left(t, self.limits) or "dominated")
            for t in self.contenders(target)
            if t.number not in staying
        ]

    def weights_file(self, number: int) -> Path:
        """Where a trial's trained weights are, if they were kept."""
        return weights_file(self.folder, number)


MISFITS = (LookupError, TypeError, ValueError, AttributeError, OverflowError)
"""What an event raises that tells of what is not there, or not as it should."""


class Fold:
    """A run as far as its events have been told.

    Args:
        folder: of the run.
        header: the first event.
    """

    def __init__(self, folder: Path, header: Event) -> None:
        self.trials: dict[int, Trial] = {}
        self._folder, self._header = folder, header
        self._lesson: tuple[str, str | None] | None = None
        self._references: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {}
        self._prints = [(0, header["fingerprint"])] if "fingerprint" in header else []
        self._forced: list[tuple[int, tuple[str, ...]]] = []

    def add(self, event: Event) -> None:
        """Tell one more event. Raises one of MISFITS where it does not fit."""
        if event["event"] == "reference":
            self._references[event["target"]] = (tuple(event["worst"]), tuple(event["best"]))
        elif event["event"] == "taught":
            self._lesson = (str(event["key"]), event.get("file"))
        elif event["event"] == "resumed" and "fingerprint" in event:
            count = len(self.trials)
            self._prints.append((count, event["fingerprint"]))
            self._forced += [(count, tuple(event["forced"]))] if "forced" in event else []
        else:
            apply_event(self.trials, event)

    def run(self) -> Run:
        """The run."""
        return Run(
            folder=self._folder,
            header=self._header,
            trials=tuple(self.trials[n] for n in sorted(self.trials)),
            references=self._references,
            taught=self._lesson and self._lesson[0],
            lesson=self._lesson and self._lesson[1],
            fingerprints=tuple(self._prints),
            forced=tuple(self._forced),
        )


def front(trials: tuple[Trial, ...], objectives: tuple[Objective, ...]) -> list[Trial]:
    """The valid trials that no other one dominates, best in the first objective first."""
    valid = [t for t in trials if t.valid]
    if not valid:
        return []
    losses = np.asarray([t.losses(objectives) for t in valid])
    kept = [t for t, keep in zip(valid, nondominated(losses), strict=True) if keep]
    return sorted(kept, key=lambda t: t.losses(objectives))


def final_front(
    contenders: Sequence[Trial], objectives: tuple[Objective, ...], limits: Sequence[Objective]
) -> list[Trial]:
    """The contenders that no other one dominates by final scores, and that keep the limits."""
    staying = [t for t in contenders if why_it_left(t, limits) is None]
    if not any(t.repeats for t in staying):
        return staying
    losses = np.asarray([final_losses(t, objectives) for t in staying])
    kept = [t for t, keep in zip(staying, nondominated(losses), strict=True) if keep]
    return sorted(kept, key=lambda t: final_losses(t, objectives))


def latest(
    before: tuple[Measurement, ...], found: tuple[Measurement, ...]
) -> tuple[Measurement, ...]:
    """All measurements of a trial; the later one of a quantity counts."""
    again = {(m.objective, m.target) for m in found}
    return (*(m for m in before if (m.objective, m.target) not in again), *found)


def apply_event(trials: dict[int, Trial], event: Event) -> None:
    """Bring trials up to date with one event of the journal."""
    kind = event["event"]
    if kind == "asked":
        for plain in event["trials"]:
            number = int(plain["trial"])
            trials[number] = Trial(
                number=number,
                batch=int(event["batch"]),
                candidate=Candidate(plain["candidate"]),
                seed=int(plain["seed"]),
                baseline=bool(plain.get("baseline", False)),
                wanted=Candidate(plain["wanted"]) if "wanted" in plain else None,
            )
    elif kind in ("scored", "trained"):
        trial = trials[event["trial"]]
        found = tuple(Measurement.from_json(m) for m in event["measurements"])
        failure = Failure.from_json(event["failure"]) if "failure" in event else None
        trials[event["trial"]] = replace(
            trial,
            measurements=latest(trial.measurements, found),
            failure=failure,
            trained=kind == "trained" and bool(found),
            weights=event.get("weights", trial.weights),
        )
    elif kind == "reached":
        trial = trials[event["trial"]]
        if "failure" in event:
            failure = Failure.from_json(event["failure"])
            trials[event["trial"]] = replace(trial, failure=failure)
        else:
            reached = Measurement.from_json(event["measurement"])
            trials[event["trial"]] = replace(trial, rungs=(*trial.rungs, reached))
    elif kind == "stopped_at":
        number = event["trial"]
        trials[number] = replace(trials[number], stopped=int(event["epoch"]))
    elif kind == "repeated":
        trials[event["trial"]] = _with_repeat(trials[event["trial"]], event)
    elif kind == "tested":
        trials[event["trial"]] = _with_test(trials[event["trial"]], event)


def _with_repeat(trial: Trial, event: Event) -> Trial:
    """A trial with a training of another seed, in place of an earlier try with that seed."""
    found, failed = event.get("measurement"), event.get("failure")
    repeat = Repeat(
        seed=int(event["seed"]),
        measurement=None if found is None else Measurement.from_json(found),
        failure=None if failed is None else Failure.from_json(failed),
    )
    others = (r for r in trial.repeats if r.seed != repeat.seed)
    return replace(trial, repeats=(*others, repeat))


def _with_test(trial: Trial, event: Event) -> Trial:
    """A trial with what the test split, and its whole programs, gave, or why they gave nothing."""
    found, failed = event.get("measurement"), event.get("failure")
    return replace(
        trial,
        test=None if found is None else Measurement.from_json(found),
        untested=None if failed is None else Failure.from_json(failed),
        whole=tuple(Measurement.from_json(m) for m in event.get("whole", ())),
    )
