"""A trial's trained weights, and its score over again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paretax.errors import UsageError
from paretax.evaluators import AccuracyEvaluator, Reason, Workbench
from paretax.evaluators.course import Course, course_of
from paretax.results.fingerprint import check_fingerprint, fingerprint
from paretax.results.releases import both_jaxlibs
from paretax.results.run import Run
from paretax.results.teaching import run_lesson
from paretax.results.trial import Trial
from paretax.results.weights import load_weights

_OUTSIDE = {  # failures that do not come from the training itself
    str(reason) for reason in Reason if reason is not Reason.DIVERGED
}


class NotReproducedError(RuntimeError):
    """A trial that was trained again came out otherwise than the journal says."""


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A trial that was trained again.

    Args:
        metric: its name.
        recorded: what the journal says: the metric, or the reason of a failed training.
        again: what came out now, likewise.
        weights: the trained arrays by name; None where the training failed.
    """

    metric: str
    recorded: float | str
    again: float | str
    weights: dict[str, np.ndarray] | None

    @property
    def equal(self) -> bool:
        """Whether the two are the same number."""
        return self.recorded == self.again


def checked_workbench(run: Run, trial: Trial, *, force_data: bool = False) -> Workbench:
    """The run's task, loaded, with the data and code that a trial was trained with.

    Raises:
        UsageError: they are others, unless `force_data` insists.
    """
    bench, then = run.workbench(), run.fingerprint(trial.number)
    if then is not None:
        folders = [Path(p) for p in run.header["search_path"]]
        now = fingerprint(bench, run.task_name, folders)
        check_fingerprint(run.folder, then, now, insist=force_data)
    return bench


def reproduce(
    run: Run, trial: Trial, bench: Workbench | None = None, *, force_data: bool = False
) -> Reproduction:
    """Train a trial again, as far as it came, from what the journal holds and nothing else.

    Raises:
        UsageError: the trial was not trained, or not to its end, or data or code are others.
    """
    bench = bench or checked_workbench(run, trial, force_data=force_data)
    metric = bench.task.metric.name
    recorded: float | str | None = None
    course: Course = ()
    trained = [m for m in trial.measurements if m.objective == metric]
    if trial.stopped is not None:
        trained = [trial.rungs[-1]]
    for m in trained:
        recorded, course = m.value, course_of(m.detail)
    if recorded is None and trial.failure is not None:
        recorded = str(trial.failure.reason)
    if recorded is not None and recorded not in _OUTSIDE:
        lesson = None
        if trial.candidate.get("distill") is True and run.teacher is not None:
            lesson = run_lesson(bench, run.teacher, run.folder, run.taught, run.lesson)
        evaluator = AccuracyEvaluator(bench, lesson)
        if trial.stopped is not None:
            evaluation = evaluator.advance(trial.candidate, trial.seed, trial.stopped, course)
        else:
            evaluation = evaluator.evaluate(trial.candidate, trial.seed, course)
        failure = evaluation.failure
        return Reproduction(
            metric=metric,
            recorded=recorded,
            again=evaluation.measurements[0].value if failure is None else str(failure.reason),
            weights=None if evaluation.weights is None else dict(evaluation.weights),
        )
    why = trial.failure.message if trial.failure else "the search has not come to it yet"
    raise UsageError(f"trial {trial.number} has no training to reproduce: {why}")


def trained_weights(run: Run, trial: Trial, bench: Workbench) -> dict[str, np.ndarray]:
    """The weights that a run kept of a trial, or else the same ones trained again.

    Raises:
        NotReproducedError: trained again, the score is not the recorded one.
    """
    kept = load_weights(run.folder, trial)
    if kept is not None:
        return kept
    again = reproduce(run, trial, bench)
    if not again.equal or again.weights is None:
        why = both_jaxlibs(run.header["versions"])
        raise NotReproducedError(
            f"trial {trial.number} scored {again.recorded} in the run and {again.again} now: "
            "its weights were not kept, and this machine or these versions train it otherwise"
            f"{why and f' ({why}: export it there)'}"
        )
    return again.weights
