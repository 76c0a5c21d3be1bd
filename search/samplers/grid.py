"""Grid search: every combination, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from paretax.search.samplers.options import check_batch, check_whole
from paretax.search.samplers.protocol import Observation
from paretax.spaces import Candidate, Space


@dataclass(frozen=True, kw_only=True)
class _GridState:
    space: Space
    told: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class GridSampler:
    """Goes through `Space.grid` in its order.

    Args:
        points: values of an ordered parameter, spread over its range; categorical ones take all.
    """

    points: int = 3
    batch: int | None = None

    def __post_init__(self) -> None:
        check_whole("the grid's points", self.points, 1)
        check_batch(self.batch)

    def init(self, space: Space) -> _GridState:
        return _GridState(space=space, told=frozenset())

    def ask(self, state: _GridState, count: int, rng: np.random.Generator) -> list[Candidate]:
        left = (c for c in state.space.grid(self.points) if c.id not in state.told)
        return list(islice(left, count))

    def tell(self, state: _GridState, observations: Sequence[Observation]) -> _GridState:
        return replace(state, told=state.told | {o.candidate.id for o in observations})
