"""What a point of the front gains over the baseline, the user's own configuration."""

from __future__ import annotations

from collections.abc import Sequence

from paretax.evaluators import Objective
from paretax.results.final_scores import final
from paretax.results.run import Run
from paretax.results.trial import Trial

_NAMES = {"size": "smaller", "latency": "faster", "price": "cheaper"}


def gain_name(objective: str) -> str:
    """The column of an objective's gain: `smaller`, `faster`, or such as `energy gain`."""
    return _NAMES.get(objective, f"{objective} gain")


def gains(run: Run, target: str, trial: Trial) -> dict[str, float]:
    """The gains of a trial over the baseline; empty where there is no baseline to compare with.

    A cost's gain is a factor: how many times less than the baseline's (of what is better when more,
    as throughput: how many times more). The metric's is a difference in its own unit. Above 1, and
    above 0, is better. The size is always there, be it an objective or not.

    Returns:
        Gains by `gain_name`, in the order of the objectives, size last where it is none.
    """
    baseline = run.baseline
    if baseline is None:
        return {}
    found: dict[str, float] = {}
    for objective in _compared(run, target):
        try:
            before, now = final(baseline, objective).value, final(trial, objective).value
        except KeyError:  # the baseline failed before it had one
            continue
        if not objective.known_before_training:
            found[gain_name(objective.name)] = objective.sign * (before - now)
            continue
        more, less = (before, now) if objective.sign > 0 else (now, before)
        if less > 0:
            found[gain_name(objective.name)] = more / less
    return found


def _compared(run: Run, target: str) -> Sequence[Objective]:
    objectives = run.objectives(target)
    if any(o.name == "size" for o in objectives):
        return objectives
    size = Objective(name="size", unit="bytes", direction="minimize", known_before_training=True)
    return (*objectives, size)


def baseline_trouble(trial: Trial) -> str | None:
    """What is wrong with a baseline, in words; None where nothing is."""
    if trial.failure is None:
        return None
    if trial.rejected:
        return f"the baseline (trial {trial.number}) breaks a limit: {trial.failure.message}"
    return (
        f"the baseline (trial {trial.number}) failed ({trial.failure.reason}): "
        f"{trial.failure.message}"
    )


def closing_words(run: Run) -> list[str]:
    """What is told at the end of a search: a baseline in trouble, missing scores."""
    trouble = None if run.baseline is None else baseline_trouble(run.baseline)
    return [*([] if trouble is None else [f"{trouble[0].upper()}{trouble[1:]}."]), *untested(run)]


def untested(run: Run) -> list[str]:
    """The trials whose score on the test split could not be had, and why."""
    return [
        f"Trial {t.number} has no score on the test split ({t.untested.reason}: "
        f"{t.untested.message})."
        for t in run.trials
        if t.untested is not None
    ]
