"""Where a running search stands: its fronts and counts, kept up to date trial by trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from paretax.evaluators import Objective
from paretax.results.run import front
from paretax.results.trial import Trial


class Standing:
    """The fronts and the counts of the trials that are done.

    A trial that is added meets the front alone, not all trials before it, so that a long search
    does not spend more and more on every trial. The result is that of `front` over all of them.

    Args:
        objectives: of each target.
        trials: what is there already.
    """

    def __init__(
        self, objectives: Mapping[str, tuple[Objective, ...]], trials: Iterable[Trial]
    ) -> None:
        self._objectives = objectives
        self._fronts: dict[str, list[Trial]] = {target: [] for target in objectives}
        self.valid = self.rejected = self.failed = self.stopped = 0
        for trial in trials:
            self.add(trial)

    def add(self, trial: Trial) -> None:
        """Count a trial; one that is not done counts for nothing yet."""
        if trial.valid:
            self.valid += 1
        elif trial.rejected:
            self.rejected += 1
        elif trial.failure is not None:
            self.failed += 1
        elif trial.stopped is not None:
            self.stopped += 1
        for target in self._objectives:
            self._fronts[target] = self._with(trial, target)

    def front(self, target: str) -> list[Trial]:
        """The front of a target, best in the first objective first."""
        return self._fronts[target]

    def would_be_on_a_front(self, trial: Trial) -> bool:
        """Whether a trial, were it added, would be on the front of any target."""
        return any(
            any(t.number == trial.number for t in self._with(trial, target))
            for target in self._objectives
        )

    def _with(self, trial: Trial, target: str) -> list[Trial]:
        if not trial.valid:
            return self._fronts[target]
        # In the order of their numbers: of equal points, the first stays.
        members = sorted([*self._fronts[target], trial], key=lambda t: t.number)
        return front(tuple(members), self._objectives[target])
