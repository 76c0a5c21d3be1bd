"""Which point of a front to take."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence

import numpy as np

from paretax.errors import UsageError, unknown
from paretax.evaluators import Objective
from paretax.results.pareto import nearest_to_ideal
from paretax.results.run import Run
from paretax.results.trial import Trial

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


def select(run: Run, target: str, where: Sequence[str], pick: str) -> Trial:
    """One trial of a target's front.

    Args:
        run: the run.
        target: one of its targets.
        where: bounds such as "accuracy>=0.97", all of which must hold.
        pick: "knee" (nearest to the best of every objective, each scaled to the range that the
            remaining front has) or "best:OBJECTIVE".

    Raises:
        UsageError: an unknown objective, a bound that cannot be read, or no point left.
    """
    objectives = run.objectives(target)
    front = run.front(target)
    if not front:
        raise UsageError(f"the run {str(run.folder)!r} has no finished trial: let it search first")
    for bound in where:
        front, before = [t for t in front if _holds(t, bound, objectives)], front
        if not front:
            best = ", ".join(f"{o.name} {_best(before, o):g}" for o in objectives)
            raise UsageError(f"no point of the front has {bound}; the best there are: {best}")
    if pick == "knee":
        return front[nearest_to_ideal(np.asarray([t.losses(objectives) for t in front]))]
    kind, _, name = pick.partition(":")
    if kind != "best" or not name:
        raise UsageError(f"--pick must be 'knee' or 'best:OBJECTIVE', got {pick!r}")
    chosen = _objective(name, objectives)
    return min(front, key=lambda t: chosen.sign * t.measured(chosen).value)


def _best(front: Sequence[Trial], objective: Objective) -> float:
    losses = [objective.sign * t.measured(objective).value for t in front]
    return objective.sign * min(losses)


def _objective(name: str, objectives: Sequence[Objective]) -> Objective:
    for objective in objectives:
        if objective.name == name:
            return objective
    raise unknown("objective", name, [o.name for o in objectives])


def _holds(trial: Trial, bound: str, objectives: Sequence[Objective]) -> bool:
    match = re.fullmatch(r"\s*(\w+)\s*(>=|<=|>|<)\s*(\S+)\s*", bound)
    try:
        limit = float(match[3]) if match else None
    except ValueError:
        limit = None
    if match is None or limit is None:
        raise UsageError(f'--where must be like "accuracy>=0.97", got {bound!r}')
    objective = _objective(match[1], objectives)
    return _OPERATORS[match[2]](trial.measured(objective).value, limit)
