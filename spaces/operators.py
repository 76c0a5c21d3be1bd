"""Variation of candidates, for samplers: neighbours, mutation, crossover.

All keep to the space: children of a changed parent are filled in or dropped, and what is forbidden
is not returned.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from paretax.spaces.candidate import Candidate
from paretax.spaces.parameters import Value
from paretax.spaces.space import Space

_TRIES = 50


def complete(
    space: Space, preferred: Mapping[str, Value], rng: np.random.Generator
) -> Candidate | None:
    """The candidate that takes `preferred` where it can and random values where it must.

    Returns:
        None where that combination is forbidden.
    """
    chosen: dict[str, Value] = {}
    for parameter in space.order:
        if space.is_active(parameter, chosen):
            if parameter.name in preferred:
                chosen[parameter.name] = preferred[parameter.name]
            else:
                chosen[parameter.name] = parameter.sample(rng)
    return None if space.is_forbidden(chosen) else Candidate(chosen)


def neighbours(space: Space, candidate: Candidate, rng: np.random.Generator) -> list[Candidate]:
    """The candidates that differ by one step in one active parameter (and in its children)."""
    found: dict[Candidate, None] = {}
    for name, value in candidate.items():
        for move in space[name].moves(value, rng):
            near = complete(space, {**candidate, name: move}, rng)
            if near is not None and near != candidate:
                found[near] = None
    return list(found)


def mutate(
    space: Space, candidate: Candidate, rng: np.random.Generator, rate: float | None = None
) -> Candidate:
    """A changed copy.

    Args:
        space: the space of the candidate.
        candidate: what to change.
        rng: the source of randomness.
        rate: probability for each active parameter to move; None: one over their number. At least
            one moves. A move is a small step, or with probability 1/4 a fresh draw.

    Returns:
        The candidate itself where 50 tries gave nothing that is allowed.
    """
    names = [n for n in candidate if space[n].cardinality != 1]
    if not names:
        return candidate
    for _ in range(_TRIES):
        moved = rng.random(len(names)) < (1 / len(names) if rate is None else rate)
        moved[rng.integers(len(names))] |= not moved.any()
        values = dict(candidate)
        for name in (n for n, m in zip(names, moved, strict=True) if m):
            moves = space[name].moves(values[name], rng)
            if moves and rng.random() < 0.75:
                values[name] = moves[int(rng.integers(len(moves)))]
            else:
                values[name] = space[name].sample(rng)
        child = complete(space, values, rng)
        if child is not None and child != candidate:
            return child
    return candidate


def crossover(
    space: Space, one: Candidate, other: Candidate, rng: np.random.Generator
) -> Candidate:
    """A child with each parameter from one parent or the other (uniform crossover, Syswerda 1989).

    A parameter that only one parent has comes from that parent.

    Returns:
        One of the parents where 50 tries gave nothing that is allowed.
    """
    for _ in range(_TRIES):
        values = dict(other)
        values.update((n, v) for n, v in one.items() if n not in other or rng.random() < 0.5)
        child = complete(space, values, rng)
        if child is not None:
            return child
    return one if rng.random() < 0.5 else other
