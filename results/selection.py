"""Which point of a front to take."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from paretax.errors import UsageError, unknown
from paretax.evaluators import Objective
from paretax.results.final_scores import final, final_losses, standard_error
from paretax.results.pareto import nearest_to_ideal
from paretax.results.run import Run
from paretax.results.trial import Trial

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A trial that was picked.

    Args:
        trial: the trial.
        alike: others that cannot be told apart from it: that might have been picked if their metric
            and its were off by up to two standard errors of the difference.
    """

    trial: Trial
    alike: tuple[Trial, ...] = ()

    def describe(self) -> str | None:
        """The trials that are alike, in words; None where there are none."""
        if not self.alike:
            return None
        others = f"trial{'s'[: len(self.alike) > 1]} {', '.join(str(t.number) for t in self.alike)}"
        return (
            f"trial {self.trial.number} cannot be told apart from {others}: within two standard "
            "errors of the difference, each might be the one to pick"
        )


def select(run: Run, target: str, where: Sequence[str], pick: str) -> Trial:
    """One trial of a target's front; see `choose`."""
    return choose(run, target, where, pick).trial


def choose(run: Run, target: str, where: Sequence[str], pick: str) -> Choice:
    """One trial of a target's front, by the means over further seeds where there are any.

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
    if not front and run.contenders(target):
        left = "; ".join(f"trial {t.number}: {why}" for t, why in run.left(target))
        raise UsageError(f"no point stayed on the front when it was scored again: {left}")
    if not front:
        raise UsageError(f"the run {str(run.folder)!r} has no finished trial: let it search first")
    for bound in where:
        front, before = [t for t in front if _holds(t, bound, objectives)], front
        if not front:
            best = ", ".join(f"{o.name} {_best(before, o):g}" for o in objectives)
            raise UsageError(f"no point of the front has {bound}; the best there are: {best}")
    kind, _, name = pick.partition(":")
    if pick != "knee" and (kind != "best" or not name):
        raise UsageError(f"--pick must be 'knee' or 'best:OBJECTIVE', got {pick!r}")
    column = None if pick == "knee" else objectives.index(_objective(name, objectives))

    def picked(losses: np.ndarray) -> int:
        return nearest_to_ideal(losses) if column is None else int(np.argmin(losses[:, column]))

    losses = np.asarray([final_losses(t, objectives) for t in front])
    index = picked(losses)
    alike = [
        other
        for i, other in enumerate(front)
        if i != index and picked(_in_favour(losses, front, objectives, i, index)) == i
    ]
    return Choice(trial=front[index], alike=tuple(alike))


def _in_favour(
    losses: np.ndarray,
    front: Sequence[Trial],
    objectives: Sequence[Objective],
    one: int,
    other: int,
) -> np.ndarray:
    """The losses, where one point's are better by two standard errors of its difference to another.

    Args:
        losses: array (points, objectives).
        front: the points.
        objectives: of the losses.
        one: index of the point that is favoured.
        other: index of the one that it is compared with.
    """
    moved = losses.copy()
    for k, objective in enumerate(objectives):
        errors = [standard_error(final(front[i], objective)) or 0.0 for i in (one, other)]
        half = math.hypot(*errors)  # of two standard errors of the difference, to either side
        moved[one, k] -= half
        moved[other, k] += half
    return moved


def _best(front: Sequence[Trial], objective: Objective) -> float:
    losses = [objective.sign * final(t, objective).value for t in front]
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
    return _OPERATORS[match[2]](final(trial, objective).value, limit)
