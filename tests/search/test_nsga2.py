"""NSGA-II: its parts against the paper's procedures, and the whole on a known problem."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from paretax.results.pareto import nondominated, relative_hypervolume
from paretax.search import Observation, make_sampler
from paretax.search.samplers import NSGA2Sampler
from paretax.search.samplers.nsga2 import crowding, survivors
from paretax.spaces import Candidate, Float, Integer, Ordinal, Space

SPACE = Space(
    [
        Float("learning_rate", 1e-4, 1e-1, log=True),
        Ordinal("width", [8, 16, 32]),
        Integer("bits", 2, 8, when={"width": [8, 16]}),
    ]
)


def naive_crowding(losses: list[tuple[float, ...]]) -> list[float]:
    """Deb et al. (2002), the procedure crowding-distance-assignment, line by line."""
    distance = [0.0] * len(losses)
    for m in range(len(losses[0])):
        order = sorted(range(len(losses)), key=lambda i: losses[i][m])
        distance[order[0]] = distance[order[-1]] = float("inf")
        low, high = losses[order[0]][m], losses[order[-1]][m]
        if high > low:
            for before, here, after in zip(order, order[1:], order[2:], strict=False):
                distance[here] += (losses[after][m] - losses[before][m]) / (high - low)
    return distance


@given(
    st.integers(1, 3).flatmap(
        lambda m: st.lists(
            st.tuples(*[st.integers(-3, 3).map(float) | st.floats(-1e6, 1e6)] * m),
            min_size=1,
            max_size=9,
        )
    )
)
def test_crowding_is_the_papers(losses: list[tuple[float, ...]]) -> None:
    found = crowding(np.array(losses))
    np.testing.assert_allclose(found, naive_crowding(losses), rtol=1e-12)


def test_crowding_by_hand() -> None:
    """Ranges of 10 and 100: (2 - 0 + 100 - 40)/... for the second point, and so on."""
    losses = np.array([[0.0, 100.0], [2.0, 60.0], [5.0, 40.0], [10.0, 0.0]])
    expected = [np.inf, 5 / 10 + 60 / 100, 8 / 10 + 60 / 100, np.inf]
    np.testing.assert_allclose(crowding(losses), expected)
    shuffled = crowding(losses[[2, 0, 3, 1]])
    np.testing.assert_allclose(shuffled, [expected[i] for i in (2, 0, 3, 1)])


def test_crowding_of_few_or_equal_points() -> None:
    assert crowding(np.array([[1.0, 2.0]])).tolist() == [np.inf]
    assert crowding(np.array([[1.0, 2.0], [2.0, 1.0]])).tolist() == [np.inf] * 2
    equal = crowding(np.ones((4, 2)))
    assert np.isinf(equal).sum() == 2
    assert (equal[~np.isinf(equal)] == 0).all()


def named(number: int) -> Candidate:
    return Candidate({"number": number})


def observations(*rows: tuple[float, ...] | float) -> list[Observation]:
    """A tuple is the losses of a valid one, a number the violation of another."""
    return [
        Observation(candidate=named(i), losses=row)
        if isinstance(row, tuple)
        else Observation(candidate=named(i), losses=None, violation=row)
        for i, row in enumerate(rows)
    ]


def test_survivors_are_the_valid_by_front_then_by_crowding() -> None:
    rows = observations(
        (3.0, 6.0),  # second front
        (0.0, 10.0),  # first front: an end
        (1.0, 5.0),  # the crowded one
        (2.0, 4.0),
        (10.0, 0.0),  # the other end
    )
    assert survivors(rows, 5) == [1, 4, 3, 2, 0]
    assert survivors(rows, 3) == [1, 4, 3]
    assert survivors(rows[::-1], 5) == [0, 3, 1, 2, 4]


def test_survivors_prefer_the_valid_then_the_smaller_violation() -> None:
    inf = float("inf")
    rows = observations(0.5, (9.0, 9.0), 0.1, inf, (8.0, 8.0), 0.3, float("nan"))
    assert survivors(rows, 7) == [4, 1, 2, 5, 0]  # other failures are not bred from
    assert survivors(rows, 3) == [4, 1, 2]
    assert survivors(observations(inf, inf), 2) == []
    assert survivors([], 2) == []


def test_a_full_score_beyond_a_limit_is_not_valid() -> None:
    best = Observation(candidate=named(0), losses=(0.0, 0.0), violation=0.2)
    (worst,) = observations((9.0, 9.0))
    assert survivors([best, worst], 2) == [1, 0]
    assert not best.valid
    assert worst.valid


@given(
    st.lists(
        st.tuples(st.integers(0, 4).map(float), st.integers(0, 4).map(float))
        | st.sampled_from([0.1, 0.2, 0.7, float("inf")]),
        max_size=10,
    ),
    st.integers(0, 12),
)
def test_survivors_in_general(rows: list[Any], count: int) -> None:
    everyone = observations(*rows)
    found = survivors(everyone, count)
    usable = [i for i, o in enumerate(everyone) if o.valid or np.isfinite(o.violation)]
    assert len(found) == len(set(found)) == min(count, len(usable))
    dropped = [i for i in usable if i not in found]
    for kept in (everyone[i] for i in found):
        for other in (everyone[i] for i in dropped):
            assert kept.valid or not other.valid
            if kept.losses is not None and other.losses is not None:
                better = np.all(np.array(other.losses) <= kept.losses)
                assert not (better and other.losses != kept.losses)
            if kept.losses is None and other.losses is None:
                assert kept.violation <= other.violation


def test_parents_are_kept_best_first_over_batches() -> None:
    sampler = NSGA2Sampler(population=2)
    state = sampler.init(SPACE)
    rng = np.random.default_rng(1)
    rows = [Observation(candidate=SPACE.sample(rng), losses=(float(i),)) for i in (3, 1, 2, 0)]
    state = sampler.tell(state, rows[:2])
    assert [p.losses for p in state.parents] == [(1.0,), (3.0,)]
    state = sampler.tell(state, rows[2:])
    assert [p.losses for p in state.parents] == [(0.0,), (1.0,)]


def test_without_crossover_a_child_is_near_its_parents() -> None:
    """One mutation of one parameter: all the other values are a parent's."""
    space = Space([Ordinal(f"p{i}", list(range(20))) for i in range(8)])
    sampler = NSGA2Sampler(population=2, crossover=0.0, mutation=0.0)  # at least one moves
    rng = np.random.default_rng(1)
    parents = [space.sample(rng) for _ in range(2)]
    told = [Observation(candidate=c, losses=(0.0, float(i))) for i, c in enumerate(parents)]
    children = sampler.ask(sampler.tell(sampler.init(space), told), 30, np.random.default_rng(2))
    for child in children:
        changed = [sum(child[n] != p[n] for n in child) for p in parents]
        assert min(changed) == 1
    bred = NSGA2Sampler(population=2, crossover=1.0, mutation=0.0)
    children = bred.ask(bred.tell(bred.init(space), told), 30, np.random.default_rng(2))
    mixtures = [
        sum(child[n] in (parents[0][n], parents[1][n]) for n in child) for child in children
    ]
    assert min(mixtures) >= 7  # every value but one is a parent's
    assert any(min(sum(c[n] != p[n] for n in c) for p in parents) > 1 for c in children)


def test_better_parents_have_more_children() -> None:
    space = Space([Ordinal(f"p{i}", list(range(50))) for i in range(4)])
    sampler = NSGA2Sampler(population=4, crossover=0.0, mutation=0.0)
    parents = [Candidate({f"p{i}": 10 * k for i in range(4)}) for k in range(4)]
    told = [Observation(candidate=c, losses=(float(i),)) for i, c in enumerate(parents)]
    children = sampler.ask(sampler.tell(sampler.init(space), told), 400, np.random.default_rng(0))
    nearest = Counter(
        max(range(4), key=lambda k: sum(child[n] == parents[k][n] for n in child))
        for child in children
    )
    # the better of two drawn from n: the k-th best with probability (2 (n - k) + 1) / n^2
    for k in range(4):
        assert nearest[k] / 400 == pytest.approx((2 * (4 - k) - 1) / 16, abs=0.08)


# On a known problem -------------------------------------------------------------------------------

ZDT = Space([Integer(f"x{i}", 0, 40) for i in range(6)])


def zdt1(candidate: Candidate) -> tuple[float, float]:
    """ZDT1 on a grid (Zitzler, Deb and Thiele, 2000): the front is f2 = 1 - sqrt(f1)."""
    first, *others = (float(candidate[f"x{i}"]) / 40 for i in range(6))
    g = 1 + 9 * sum(others) / 5
    return first, g * (1 - (first / g) ** 0.5)


def searched(name: str, trials: int, seed: int) -> float:
    """The hypervolume after so many trials in batches of 16."""
    sampler = make_sampler(name, {"population": 16} if name == "nsga2" else {})
    state, losses = sampler.init(ZDT), []
    for batch in range(trials // 16):
        proposals = sampler.ask(state, 16, np.random.default_rng([seed, batch]))
        told = [Observation(candidate=c, losses=zdt1(c)) for c in proposals]
        losses += [o.losses for o in told]
        state = sampler.tell(state, told)
    points = np.array(losses)
    return relative_hypervolume(points[nondominated(points)], [1.1, 11.0], [0.0, 0.0])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_evolution_beats_chance_on_zdt1(seed: int) -> None:
    best = relative_hypervolume(
        np.array(
            [zdt1(Candidate({**{f"x{i}": 0 for i in range(1, 6)}, "x0": k})) for k in range(41)]
        ),
        [1.1, 11.0],
        [0.0, 0.0],
    )
    chance, evolved = searched("random", 320, seed), searched("nsga2", 320, seed)
    assert chance < evolved <= best
    assert best - evolved < 0.25 * (best - chance)
