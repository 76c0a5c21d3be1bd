"""Variation of candidates: every result is in the space and close to where it came from."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from paretax.spaces import (
    Candidate,
    Categorical,
    Clause,
    Float,
    Integer,
    Ordinal,
    Space,
    complete,
    crossover,
    mutate,
    neighbours,
)

seeds = st.integers(0, 2**32 - 1)


def descendants(space: Space, name: str) -> set[str]:
    """The parameters whose existence hangs on `name`."""
    found: set[str] = set()
    while True:
        more = {
            p.name
            for p in space
            if isinstance(p.when, Clause) and set(p.when.names) & {name, *found}
        }
        if more <= found:
            return found
        found |= more


def changed(one: Candidate, other: Candidate) -> list[str]:
    """The parameters that both have, with different values; True and 1 are."""
    return [n for n in one if n in other and repr(one[n]) != repr(other[n])]


@given(data=st.data(), seed=seeds)
def test_neighbours_differ_in_one_parameter_and_its_children(
    spaces: st.SearchStrategy[Space], data: st.DataObject, seed: int
) -> None:
    space = data.draw(spaces)
    rng = np.random.default_rng(seed)
    candidate = space.sample(rng)
    near = neighbours(space, candidate, rng)
    assert len(set(near)) == len(near)
    for other in near:
        assert space.candidate(other) == other
        assert other != candidate
        (name,) = changed(candidate, other)
        assert set(candidate) ^ set(other) <= descendants(space, name)


@given(data=st.data(), seed=seeds)
def test_mutants_are_other_candidates(
    spaces: st.SearchStrategy[Space], data: st.DataObject, seed: int
) -> None:
    space = data.draw(spaces)
    rng = np.random.default_rng(seed)
    candidate = space.sample(rng)
    rate = data.draw(st.none() | st.sampled_from([0.0, 0.5, 1.0]))
    mutant = mutate(space, candidate, rng, rate)
    assert space.candidate(mutant) == mutant
    if mutant != candidate:
        moved = changed(candidate, mutant)
        children = {n for name in moved for n in descendants(space, name)}
        assert moved
        assert set(candidate) ^ set(mutant) <= children
        if rate == 0:
            assert len(moved) == 1


@given(data=st.data(), seed=seeds)
def test_children_take_each_parameter_from_a_parent(
    spaces: st.SearchStrategy[Space], data: st.DataObject, seed: int
) -> None:
    space = data.draw(spaces)
    rng = np.random.default_rng(seed)
    one, other = space.sample(rng), space.sample(rng)
    child = crossover(space, one, other, rng)
    assert space.candidate(child) == child
    for name, value in child.items():
        of_parents = [parent[name] for parent in (one, other) if name in parent]
        assert value in of_parents or not of_parents


@given(data=st.data(), seed=seeds)
def test_complete_keeps_what_is_preferred(
    spaces: st.SearchStrategy[Space], data: st.DataObject, seed: int
) -> None:
    space = data.draw(spaces)
    rng = np.random.default_rng(seed)
    whole = space.sample(rng)
    assert complete(space, whole, rng) == whole
    part = {n: whole[n] for n in data.draw(st.sets(st.sampled_from(sorted(whole))))}
    found = complete(space, part, rng)
    if found is None:
        assert space.forbidden
    else:
        assert space.candidate(found) == found
        assert all(found[n] == v for n, v in part.items() if n in found)


@given(data=st.data(), seed=seeds)
def test_one_seed_gives_one_result(
    spaces: st.SearchStrategy[Space], data: st.DataObject, seed: int
) -> None:
    space = data.draw(spaces)

    def run() -> list[Any]:
        rng = np.random.default_rng(seed)
        one, other = space.sample(rng), space.sample(rng)
        return [
            neighbours(space, one, rng),
            mutate(space, one, rng),
            crossover(space, one, other, rng),
        ]

    assert run() == run()


# Written out --------------------------------------------------------------------------------------


def small() -> Space:
    return Space(
        [
            Categorical("optimizer", ["sgd", "adamw", "lion"]),
            Ordinal("width", [16, 32, 64]),
            Integer("bits", 2, 8, when={"optimizer": ["sgd", "adamw"]}),
        ],
        forbidden=[{"optimizer": "adamw", "width": 64}],
    )


def test_all_neighbours_of_a_finite_candidate() -> None:
    space = small()
    rng = np.random.default_rng(0)
    candidate = space.candidate({"optimizer": "lion", "width": 64})
    near = neighbours(space, candidate, rng)
    assert space.candidate({"optimizer": "lion", "width": 32}) in near
    (other,) = [c for c in near if c["width"] == 64]  # adamw is forbidden at this width
    assert other["optimizer"] == "sgd"
    assert len(near) == 2


def test_a_mutation_rate_is_the_share_that_moves() -> None:
    space = Space([Float(f"p{i}", 0, 1) for i in range(10)])
    rng = np.random.default_rng(0)
    candidate = space.sample(rng)

    def mean(rate: float | None) -> float:
        moved = [len(changed(candidate, mutate(space, candidate, rng, rate))) for _ in range(200)]
        return float(np.mean(moved))

    assert mean(1.0) == 10
    assert mean(0.5) == pytest.approx(5, abs=0.5)
    assert mean(None) == pytest.approx(1 + 0.9**10, abs=0.25)  # one on average, but at least one


def test_mutants_reach_far_values() -> None:
    """A quarter of the moves is a fresh draw, so no value is out of reach."""
    space = Space([Ordinal("width", list(range(50)))])
    rng = np.random.default_rng(0)
    candidate = space.candidate({"width": 25})
    mutants = [mutate(space, candidate, rng)["width"] for _ in range(400)]
    far = sum(abs(int(m) - 25) > 1 for m in mutants) / len(mutants)
    assert far == pytest.approx(0.25 * 47 / 49, abs=0.08)


def test_a_candidate_that_cannot_move_stays() -> None:
    rng = np.random.default_rng(0)
    held = Space([Categorical("width", [16]), Float("rate", 1, 1)])
    only = held.sample(rng)
    assert mutate(held, only, rng) == only
    assert neighbours(held, only, rng) == []
    fenced = Space([Ordinal("width", [1, 2, 4])], forbidden=[{"width": [1, 4]}])
    middle = fenced.candidate({"width": 2})
    assert mutate(fenced, middle, rng) == middle
    assert neighbours(fenced, middle, rng) == []


def test_crossover_takes_about_half_from_each_parent() -> None:
    space = Space([Categorical(f"p{i}", [0, 1]) for i in range(20)])
    one = space.candidate({p.name: 0 for p in space})
    other = space.candidate({p.name: 1 for p in space})
    rng = np.random.default_rng(0)
    ones = [sum(map(int, crossover(space, one, other, rng).values())) for _ in range(100)]
    assert np.mean(ones) == pytest.approx(10, abs=1)


def test_crossover_hands_on_what_one_parent_has() -> None:
    space = small()
    one = space.candidate({"optimizer": "sgd", "width": 16, "bits": 7})
    other = space.candidate({"optimizer": "lion", "width": 16})
    rng = np.random.default_rng(0)
    children = {crossover(space, one, other, rng) for _ in range(20)}
    assert children == {one, other}


def test_crossover_of_what_only_the_parents_may_be_gives_a_parent() -> None:
    space = Space(
        [Categorical("a", [0, 1]), Categorical("b", [0, 1])],
        forbidden=[{"a": 0, "b": 1}, {"a": 1, "b": 0}],
    )
    zero, one = space.candidate({"a": 0, "b": 0}), space.candidate({"a": 1, "b": 1})
    rng = np.random.default_rng(0)
    assert {crossover(space, zero, one, rng) for _ in range(20)} == {zero, one}


def test_complete_says_none_where_it_is_forbidden() -> None:
    rng = np.random.default_rng(0)
    assert complete(small(), {"optimizer": "adamw", "width": 64}, rng) is None
    lion = complete(small(), {"optimizer": "lion", "width": 64, "bits": 3}, rng)
    assert lion is not None
    assert dict(lion) == {"optimizer": "lion", "width": 64}
