"""Dominance, hypervolume and the knee, against their definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from paretax.results.pareto import (
    nearest_to_ideal,
    nondominated,
    ranks,
    reference,
    relative_hypervolume,
)


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(
        a < b for a, b in zip(one, other, strict=True)
    )


def naive_nondominated(points: list[tuple[float, ...]]) -> list[bool]:
    return [
        not any(dominates(q, p) for q in points) and p not in points[:i]
        for i, p in enumerate(points)
    ]


def naive_ranks(points: list[tuple[float, ...]]) -> list[int]:
    """By peeling: what nothing left dominates is the next front."""
    found = [-1] * len(points)
    rank = 0
    while -1 in found:
        left = [i for i, r in enumerate(found) if r == -1]
        for i in [i for i in left if not any(dominates(points[j], points[i]) for j in left)]:
            found[i] = rank
        rank += 1
    return found


@st.composite
def point_sets(draw: st.DrawFn, most: int = 12) -> np.ndarray:
    """Points of 1 to 4 objectives, often equal in some or all of them; maybe none."""
    objectives = draw(st.integers(1, 4))
    number = st.one_of(
        st.integers(-2, 2).map(float), st.floats(-1e9, 1e9, allow_nan=False, allow_subnormal=False)
    )
    rows = draw(st.lists(st.tuples(*[number] * objectives), max_size=most))
    rows += draw(st.lists(st.sampled_from(rows), max_size=3)) if rows else []
    return np.array(rows, np.float64).reshape(len(rows), objectives)


def listed(points: np.ndarray) -> list[tuple[float, ...]]:
    return [tuple(row) for row in points.tolist()]


@given(point_sets())
def test_what_nothing_dominates(points: np.ndarray) -> None:
    found = nondominated(points)
    assert found.dtype == bool
    assert found.tolist() == naive_nondominated(listed(points))


@given(point_sets())
def test_fronts_by_peeling(points: np.ndarray) -> None:
    assert ranks(points).tolist() == naive_ranks(listed(points))


def test_no_points_have_no_front() -> None:
    assert nondominated(np.zeros((0, 2))).tolist() == []
    assert ranks(np.zeros((0, 2))).tolist() == []


def test_of_equal_points_the_first_is_kept_and_all_are_in_one_front() -> None:
    points = np.array([[2.0, 2.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    assert nondominated(points).tolist() == [False, True, False, False]
    assert ranks(points).tolist() == [1, 0, 0, 0]


# Hypervolume --------------------------------------------------------------------------------------


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_one_point_dominates_a_box(objectives: int) -> None:
    worst, best = [10.0] * objectives, [0.0] * objectives
    assert relative_hypervolume(np.array([best]), worst, best) == pytest.approx(1.0)
    middle = np.full((1, objectives), 5.0)
    assert relative_hypervolume(middle, worst, best) == pytest.approx(0.5**objectives)
    beyond = np.full((1, objectives), -10.0)
    assert relative_hypervolume(beyond, worst, best) == pytest.approx(2.0**objectives)


def test_a_staircase_is_a_sum_of_boxes() -> None:
    """(1, 3), (2, 2), (3, 1) below (4, 4): 1 + 2 + 3 unit squares of 16."""
    points = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    assert relative_hypervolume(points, [4.0, 4.0], [0.0, 0.0]) == pytest.approx(6 / 16)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_points_on_a_line_have_a_closed_form(count: int) -> None:
    """n points (i, n + 1 - i) below (n + 1, n + 1): n (n + 1) / 2 unit squares."""
    points = np.array([[i, count + 1.0 - i] for i in range(1, count + 1)])
    found = relative_hypervolume(points, [count + 1.0] * 2, [0.0] * 2)
    assert found == pytest.approx(count * (count + 1) / 2 / (count + 1) ** 2)


@given(
    st.integers(1, 3).flatmap(
        lambda n: st.lists(st.tuples(*[st.integers(0, 5)] * n), min_size=1, max_size=6)
    )
)
def test_volume_by_counting_cells(points: list[tuple[int, ...]]) -> None:
    """On whole numbers below the reference (4, ...); what lies beyond it counts nothing."""
    side = range(4)
    cells = product(side, repeat=len(points[0]))
    covered = sum(
        any(all(p <= c for p, c in zip(q, cell, strict=True)) for q in points) for cell in cells
    )
    objectives = len(points[0])
    found = relative_hypervolume(np.array(points, float), [4.0] * objectives, [0.0] * objectives)
    assert found == pytest.approx(covered / 4**objectives)


def test_nothing_dominates_nothing() -> None:
    assert relative_hypervolume(np.zeros((0, 2)), [1.0, 1.0], [0.0, 0.0]) == 0.0
    at_reference = np.array([[1.0, 0.0], [2.0, -5.0]])
    assert relative_hypervolume(at_reference, [1.0, 1.0], [0.0, 0.0]) == 0.0


@given(point_sets(), st.floats(0.1, 1e3), st.floats(-10, 10))
def test_units_do_not_matter(points: np.ndarray, factor: float, shift: float) -> None:
    points = np.clip(points, -2, 2)
    objectives = points.shape[1]
    worst, best = np.full(objectives, 3.0), np.full(objectives, -3.0)
    once = relative_hypervolume(points, worst.tolist(), best.tolist())
    again = relative_hypervolume(
        points * factor + shift, (worst * factor + shift).tolist(), (best * factor + shift).tolist()
    )
    assert again == pytest.approx(once, rel=1e-6, abs=1e-9)
    assert (once > 0) == (len(points) > 0)


def test_the_reference_is_a_tenth_of_the_range_behind_the_worst() -> None:
    worst, best = reference(np.array([[0.0, 100.0, -3.0], [10.0, 300.0, -1.0], [5.0, 200.0, -2.0]]))
    assert worst == pytest.approx((11.0, 320.0, -0.8))
    assert best == (0.0, 100.0, -3.0)


def test_an_objective_that_does_not_vary_gets_a_range_all_the_same() -> None:
    worst, best = reference(np.array([[0.0, 50.0, -0.25], [0.0, 50.0, -0.25]]))
    assert worst == pytest.approx((0.1, 55.0, -0.15))
    assert best == (0.0, 50.0, -0.25)
    box = relative_hypervolume(np.array([best]), worst, best)
    assert box == pytest.approx(1.0)


# The knee -----------------------------------------------------------------------------------------


def test_the_knee_of_a_bent_front() -> None:
    points = np.array([[0.0, 1.0], [0.2, 0.3], [0.6, 0.2], [1.0, 0.0]])
    assert nearest_to_ideal(points) == 1


def test_scales_do_not_move_the_knee() -> None:
    points = np.array([[0.0, 1.0], [0.2, 0.3], [0.6, 0.2], [1.0, 0.0]])
    assert nearest_to_ideal(points * [1e6, 1e-3] + [5.0, -7.0]) == 1
    assert nearest_to_ideal(points[::-1]) == 2


def test_objectives_that_do_not_vary_do_not_count() -> None:
    assert nearest_to_ideal(np.array([[3.0, 2.0], [3.0, 1.0], [3.0, 5.0]])) == 1
    assert nearest_to_ideal(np.array([[3.0, 2.0]])) == 0
    assert nearest_to_ideal(np.array([[3.0, 2.0]] * 3)) == 0


@given(point_sets())
def test_the_knee_by_its_definition(points: np.ndarray) -> None:
    if not len(points):
        return
    columns = list(zip(*listed(points), strict=True))

    def distance(point: tuple[float, ...]) -> float:
        return math.fsum(
            ((x - min(c)) / (max(c) - min(c))) ** 2 if max(c) > min(c) else 0.0
            for x, c in zip(point, columns, strict=True)
        )

    distances = [distance(p) for p in listed(points)]
    assert distances[nearest_to_ideal(points)] == pytest.approx(min(distances), abs=1e-12)
