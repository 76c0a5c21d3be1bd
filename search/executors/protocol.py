"""Where evaluations run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol

from paretax.evaluators import Evaluation
from paretax.results.trial import Trial
from paretax.spaces import BY_NAME, Candidate, signature

Kind = Literal["score", "advance", "train", "repeat", "test"]
"""The worker's methods."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One evaluation to run.

    Args:
        kind: the worker's method.
        trial: its number, by which results are told apart.
        candidate: what is evaluated.
        seed: of its training.
        extra: further arguments of the method.
        signature: calls of equal signature share compiled programs; "": of no account.
    """

    kind: Kind
    trial: int
    candidate: Candidate
    seed: int
    extra: tuple[Any, ...] = ()
    signature: str = ""

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Of the worker's method."""
        return (self.candidate, self.seed, *self.extra)


def calls_of(kind: Kind, trials: Iterable[Trial]) -> list[Call]:
    """A call of each trial."""
    return [
        Call(
            kind=kind,
            trial=t.number,
            candidate=t.candidate,
            seed=t.seed,
            signature=signature(t.candidate, BY_NAME),
        )
        for t in trials
    ]


class Runner(Protocol):
    """Runs evaluations."""

    def run(
        self, calls: Sequence[Call], *, alone: bool = False
    ) -> Iterator[tuple[int, Evaluation]]:
        """Run calls, and give each trial's number and evaluation as they finish.

        Args:
            calls: at most one a trial, all of one kind.
            alone: one after another, on one worker, while the others rest: for measurements of
                time. It is always the same worker, on the machine of the driver.
        """
        ...


class Executor(Runner, Protocol):
    """Runs evaluations on workers, which live as long as the executor is entered."""

    def __enter__(self) -> Executor: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
