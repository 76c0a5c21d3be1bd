"""The end of a search: its final front is scored with further seeds, and on the test split."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from paretax.evaluators.course import course_of
from paretax.results.final_scores import further_seeds
from paretax.results.trial import Trial
from paretax.results.weights import load_weights
from paretax.search.executors.protocol import Runner, calls_of


class Note(Protocol):
    """Writes an event into the journal, and lets it count."""

    def __call__(self, event: str, **content: Any) -> None: ...


def to_repeat(contenders: Iterable[Trial], count: int) -> list[tuple[Trial, int]]:
    """Trials, each with a seed with which it is still to be trained.

    Args:
        contenders: the front by the search's own scores, and the baseline.
        count: of further seeds.
    """
    left = []
    for trial in {t.number: t for t in contenders}.values():
        tried = {r.seed for r in trial.repeats if r.tried}
        left += [(trial, seed) for seed in further_seeds(trial, count) if seed not in tried]
    return left


def repeat(executor: Runner, left: Sequence[tuple[Trial, int]], note: Note) -> None:
    """Train trials again with further seeds; a failure is noted, and counts for its seed alone."""
    by_trial: dict[int, deque[tuple[Trial, int]]] = {}
    for trial, seed in left:
        by_trial.setdefault(trial.number, deque()).append((trial, seed))
    while by_trial:  # one call a trial at a time, as an executor tells them apart by the trial
        now = {number: waiting.popleft() for number, waiting in by_trial.items()}
        by_trial = {number: waiting for number, waiting in by_trial.items() if waiting}
        for number, evaluation in executor.run(
            calls_of("repeat", [replace(trial, seed=seed) for trial, seed in now.values()])
        ):
            content: dict[str, Any] = {"trial": number, "seed": now[number][1]}
            content["time"] = round(time.time(), 3)
            if evaluation.failure is not None:
                content["failure"] = evaluation.failure.to_json()
            else:
                content["measurement"] = evaluation.measurements[0].to_json()
            note("repeated", **content)


def score_test(
    executor: Runner,
    trials: Mapping[int, Trial],
    numbers: Sequence[int],
    metric: str,
    folder: Path,
    note: Note,
) -> None:
    """Score trials on the test split, each once; one that cannot be scored is noted, and goes.

    Args:
        executor: runs it.
        trials: all of the search, by number; brought up to date by `note`.
        numbers: of those that are scored.
        metric: name of the task's.
        folder: of the run, with the trained weights.
        note: writes each outcome.
    """
    left = [trials[n] for n in numbers if not trials[n].tested]
    made = [
        replace(call, extra=_to_test(trials[call.trial], metric, folder))
        for call in calls_of("test", left)
    ]
    for number, evaluation in executor.run(made):
        content: dict[str, Any] = {"trial": number}
        if evaluation.measurements:
            tested, *whole = (m.to_json() for m in evaluation.measurements)
            content |= {"measurement": tested, **({"whole": whole} if whole else {})}
        if evaluation.failure is not None:
            content["failure"] = evaluation.failure.to_json()
        note("tested", **content)


def _to_test(trial: Trial, metric: str, folder: Path) -> tuple[Any, ...]:
    """A trial's weights, its recorded metric, and the course of its training."""
    trained = next(m for m in trial.measurements if m.objective == metric)
    return load_weights(folder, trial), trained.value, course_of(trained.detail)
