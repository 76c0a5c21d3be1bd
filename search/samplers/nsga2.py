"""NSGA-II: evolution under non-domination and crowding.

K. Deb, A. Pratap, S. Agarwal and T. Meyarivan, "A Fast and Elitist Multiobjective Genetic
Algorithm: NSGA-II", IEEE Trans. Evolutionary Computation 6(2), 2002, doi:10.1109/4235.996017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from paretax.results.pareto import ranks
from paretax.search.samplers.options import check_probability, check_whole
from paretax.search.samplers.protocol import Observation
from paretax.spaces import Candidate, Space, crossover, mutate


@dataclass(frozen=True, kw_only=True)
class _Generation:
    space: Space
    parents: tuple[Observation, ...]  # best first


@dataclass(frozen=True, kw_only=True)
class NSGA2Sampler:
    """Breeds each batch from the best of all that was told.

    The first batch is random. Parents are chosen by binary tournaments; a child is a uniform
    crossover of two with probability `crossover`, and then mutated.

    Args:
        population: parents that are kept, and the size of a batch.
        crossover: probability of a child to have two parents.
        mutation: probability of each active parameter to move; None: one over their number.
    """

    population: int = 16
    crossover: float = 0.9
    mutation: float | None = None

    def __post_init__(self) -> None:
        check_whole("the population", self.population, 2)
        check_probability("crossover", self.crossover)
        if self.mutation is not None:
            check_probability("mutation", self.mutation)

    @property
    def batch(self) -> int:
        return self.population

    def init(self, space: Space) -> _Generation:
        return _Generation(space=space, parents=())

    def ask(self, state: _Generation, count: int, rng: np.random.Generator) -> list[Candidate]:
        if len(state.parents) < 2:
            return [state.space.sample(rng) for _ in range(count)]
        return [self._child(state, rng) for _ in range(count)]

    def _child(self, state: _Generation, rng: np.random.Generator) -> Candidate:
        one, other = self._parent(state, rng), self._parent(state, rng)
        child = one
        if one != other and rng.random() < self.crossover:
            child = crossover(state.space, one, other, rng)
        return mutate(state.space, child, rng, self.mutation)

    @staticmethod
    def _parent(state: _Generation, rng: np.random.Generator) -> Candidate:
        """The better of two (section III-C); parents are kept in their order."""
        return state.parents[int(rng.integers(len(state.parents), size=2).min())].candidate

    def tell(self, state: _Generation, observations: Sequence[Observation]) -> _Generation:
        everyone = (*state.parents, *observations)
        kept = survivors(everyone, self.population)
        return replace(state, parents=tuple(everyone[i] for i in kept))


def survivors(observations: Sequence[Observation], count: int) -> list[int]:
    """The indices of the `count` best, best first.

    Valid ones come first, by front and then by crowding distance (section III-B); then the others
    by how much they broke a limit (section VI-A), failures of other kinds not at all.
    """
    valid = [i for i, o in enumerate(observations) if o.valid]
    others = [i for i, o in enumerate(observations) if not o.valid and np.isfinite(o.violation)]
    order: list[int] = []
    if valid:
        losses = np.asarray([observations[i].losses for i in valid])
        front = ranks(losses)
        distance = np.zeros(len(valid))
        for rank in np.unique(front):
            members = np.flatnonzero(front == rank)
            distance[members] = crowding(losses[members])
        order = [valid[i] for i in np.lexsort((-distance, front))]
    order += sorted(others, key=lambda i: observations[i].violation)
    return order[:count]


def crowding(losses: np.ndarray) -> np.ndarray:
    """The crowding distance of the points of one front (section III-B).

    Args:
        losses: array (points, objectives).

    Returns:
        Array (points,): the sum over objectives of the gap between a point's two neighbours, in
        units of the front's range; infinity at the ends.
    """
    points, objectives = losses.shape
    distance = np.zeros(points)
    for k in range(objectives):
        order = np.argsort(losses[:, k], kind="stable")
        values = losses[order, k]
        span = values[-1] - values[0]
        distance[order[[0, -1]]] = np.inf
        if span > 0 and points > 2:
            distance[order[1:-1]] += (values[2:] - values[:-2]) / span
    return distance
