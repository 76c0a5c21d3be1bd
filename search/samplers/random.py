"""Random search (Bergstra and Bengio, 2012)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paretax.search.samplers.options import check_batch
from paretax.search.samplers.protocol import Observation
from paretax.spaces import Candidate, Space


@dataclass(frozen=True, kw_only=True)
class RandomSampler:
    """Draws each candidate alone."""

    batch: int | None = None

    def __post_init__(self) -> None:
        check_batch(self.batch)

    def init(self, space: Space) -> Space:
        return space

    def ask(self, state: Space, count: int, rng: np.random.Generator) -> list[Candidate]:
        return [state.sample(rng) for _ in range(count)]

    def tell(self, state: Space, observations: Sequence[Observation]) -> Space:
        return state
