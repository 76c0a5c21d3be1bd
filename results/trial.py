"""What became of one candidate."""

from __future__ import annotations

from dataclasses import dataclass

from paretax.evaluators import Failure, Measurement, Objective, Reason
from paretax.spaces import Candidate


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """A trial of the final front that was trained again with another seed.

    Args:
        seed: of that training.
        measurement: the metric on the validation split; None where there is none.
        failure: why there is none.
    """

    seed: int
    measurement: Measurement | None = None
    failure: Failure | None = None

    @property
    def tried(self) -> bool:
        """Whether it came to an end; a worker that was lost meanwhile is no try."""
        return self.failure is None or self.failure.reason is not Reason.WORKER_LOST


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One candidate of a run, as far as the journal tells.

    Args:
        number: its place in the run, from 0.
        batch: the round in which it was asked for, from 0.
        candidate: what was tried.
        seed: of its training.
        wanted: what the sampler had proposed, where that was moved to share its programs.
        measurements: what was measured, on training and validation data alone.
        failure: why it has no full score; None where it has one, or is not done.
        trained: whether its training ended well.
        weights: the SHA-256 of the file of its trained weights, where they were kept.
        rungs: the metric at each rung that it has reached, in their order.
        stopped: the epoch of the rung at which it was stopped; None where it was not.
        repeats: trainings with further seeds; none unless it was on the final front.
        test: the metric on the test split; None unless it was on the final front.
        untested: why there is no metric on the test split, where it was asked for.
        whole: with it, latencies of whole programs on targets that were priced from parts.
        baseline: whether it is the user's own configuration, with which the search began. Limits
            and rungs do not keep it from being trained.
    """

    number: int
    batch: int
    candidate: Candidate
    seed: int
    wanted: Candidate | None = None
    measurements: tuple[Measurement, ...] = ()
    failure: Failure | None = None
    trained: bool = False
    weights: str | None = None
    rungs: tuple[Measurement, ...] = ()
    stopped: int | None = None
    repeats: tuple[Repeat, ...] = ()
    test: Measurement | None = None
    untested: Failure | None = None
    whole: tuple[Measurement, ...] = ()
    baseline: bool = False

    @property
    def done(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.trained or self.failure is not None or self.stopped is not None

    @property
    def valid(self) -> bool:
        """Whether it has all its scores and keeps all limits."""
        return self.trained and self.failure is None

    @property
    def rejected(self) -> bool:
        """Whether it broke a hard limit, before or after training."""
        return self.failure is not None and self.failure.reason is Reason.LIMIT_EXCEEDED

    @property
    def tested(self) -> bool:
        """Whether the test split was tried on it; a worker that was lost meanwhile is no try."""
        lost = self.untested is not None and self.untested.reason is Reason.WORKER_LOST
        return self.test is not None or (self.untested is not None and not lost)

    @property
    def last_round(self) -> int | None:
        """The round of the search in which it ended; None where it has not."""
        if not self.done:
            return None
        return self.batch + len(self.rungs) - (self.stopped is not None)

    def measured(self, objective: Objective) -> Measurement:
        """The measurement of an objective. Raises KeyError where it has none."""
        for m in self.measurements:
            if (m.objective, m.target) == objective.key:
                return m
        raise KeyError(f"trial {self.number} has no measurement of {objective.title}")

    def losses(self, objectives: tuple[Objective, ...]) -> tuple[float, ...]:
        """The values of the objectives, each turned so that less is better."""
        return tuple(o.sign * self.measured(o).value for o in objectives)
