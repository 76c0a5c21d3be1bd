"""The end of a search: its final front is scored on the test split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from paretax.results.run import load_weights
from paretax.results.trial import Trial
from paretax.search.executors import Executor
from paretax.search.executors.protocol import calls_of


class Note(Protocol):
    """Writes an event into the journal, and lets it count."""

    def __call__(self, event: str, **content: Any) -> None: ...


def score_test(
    executor: Executor,
    trials: Mapping[int, Trial],
    numbers: list[int],
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
        replace(
            call, extra=(load_weights(folder, call.trial), recorded(trials[call.trial], metric))
        )
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


def recorded(trial: Trial, metric: str) -> float:
    """What a trial's training was recorded with."""
    return next(m.value for m in trial.measurements if m.objective == metric)
