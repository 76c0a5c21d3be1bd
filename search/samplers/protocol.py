"""What a sampler is: a state, advanced by what became of its proposals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from paretax.spaces import Candidate, Space


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What became of a proposal.

    Args:
        candidate: the proposal.
        losses: the objectives, each to be minimised; None where it has no full score.
        violation: 0 for a valid one; by how much it broke a limit; infinity for any other failure.
    """

    candidate: Candidate
    losses: tuple[float, ...] | None
    violation: float = 0.0

    @property
    def valid(self) -> bool:
        """Whether it has its scores and keeps all limits."""
        return self.losses is not None and self.violation == 0.0


class Sampler(Protocol):
    """Proposes candidates. States are values: no call changes the one that it is given.

    A state depends on what was told, in its order, and on nothing else. So a search is resumed by
    telling again what its journal holds.

    Attributes:
        batch: how many proposals it likes to be asked for at once; None leaves it to the engine.
    """

    @property
    def batch(self) -> int | None: ...

    def init(self, space: Space) -> Any:
        """The state before anything was told."""
        ...

    def ask(self, state: Any, count: int, rng: np.random.Generator) -> list[Candidate]:
        """At most `count` proposals; fewer only where the space holds no more."""
        ...

    def tell(self, state: Any, observations: Sequence[Observation]) -> Any:
        """The state after a batch of proposals was evaluated."""
        ...
