"""Rungs: trainings that are dominated early are stopped there.

Successive halving (Jamieson and Talwalkar, 2016, arXiv:1502.07943) for several objectives: of the
trials that have reached a rung, the best share goes on, by non-domination and then by crowding
(Schmucker et al., 2021, arXiv:2106.12639). The costs of a candidate are known before its training;
what a rung adds is the metric so far.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from paretax.evaluators import Objective
from paretax.results.pareto import ranks
from paretax.results.trial import Trial
from paretax.search.samplers.nsga2 import crowding
from paretax.spaces import SETTINGS
from paretax.spaces.dimensions import choose


class Rungs:
    """The rungs of a search.

    Args:
        first: epochs at the first one.
        factor: each further rung comes after so many times the epochs, and one of so many goes on.
    """

    def __init__(self, first: int, factor: int) -> None:
        self.first, self.factor = first, factor

    def of(self, candidate: Mapping[str, Any]) -> tuple[int, ...]:
        """The epochs at which a candidate is looked at; a lottery, which trains anew, has none."""
        chosen = choose(SETTINGS, candidate)
        if chosen["pruning"] == "lottery_ticket":
            return ()
        found, epochs = [], self.first
        while epochs < int(chosen["epochs"]):
            found.append(epochs)
            epochs *= self.factor
        return tuple(found)

    def staying(
        self,
        trials: Iterable[Trial],
        epochs: int,
        round_number: int,
        targets: Iterable[Sequence[Objective]],
    ) -> set[int]:
        """The trials that go on after a rung: those that are good enough on any target.

        Args:
            trials: all of the search.
            epochs: of the rung.
            round_number: what came to the rung after this round is not looked at.
            targets: the objectives of each.
        """
        there = []
        for trial in trials:
            rungs = self.of(trial.candidate)
            rung = rungs.index(epochs) if epochs in rungs else len(rungs)
            if rung < len(trial.rungs) and trial.batch + rung <= round_number:
                there.append((trial, rung))
        found: set[int] = set()
        for objectives in targets:
            losses = {t.number: losses_at(t, rung, objectives) for t, rung in there}
            found |= self.goes_on(losses) if losses else set()
        return found

    def goes_on(self, reached: Mapping[int, np.ndarray]) -> set[int]:
        """The trials that are good enough, of all that have reached a rung.

        Args:
            reached: the losses of each, by its number; all that ever came so far, also those that
                were stopped here.
        """
        numbers = sorted(reached)
        losses = np.stack([reached[n] for n in numbers])
        places = ranks(losses)
        distance = np.zeros(len(numbers))
        for place in np.unique(places):
            members = np.flatnonzero(places == place)
            distance[members] = crowding(losses[members])
        order = np.lexsort((-distance, places))
        return {numbers[i] for i in order[: math.ceil(len(numbers) / self.factor)]}


def losses_at(trial: Trial, rung: int, objectives: Sequence[Objective]) -> np.ndarray:
    """A trial's losses with the metric that it had at a rung."""
    reached = trial.rungs[rung]
    values = [
        o.sign * (reached.value if o.name == reached.objective else trial.measured(o).value)
        for o in objectives
    ]
    return np.asarray(values)
