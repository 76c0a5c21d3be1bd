"""Magnitude pruning against naive versions: exact counts, whatever the ties; and its formulae."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretax.errors import UsageError
from paretax.spaces.pruning import (
    global_masks,
    gradual_sparsity,
    layer_masks,
    lottery_rounds,
    n_of_m_mask,
    patterns,
    pruned_count,
    sparsities,
)
from paretax.spaces.sites import Site

SHAPE = (3, 4)
VALUES = st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5]), st.floats(-2, 2, width=16))


def site(weight: str, shape: tuple[int, ...], **rest: Any) -> Site:
    return Site(**({"weight": weight, "kind": "dot", "shape": shape, "axes": (0,)} | rest))


def layer_mask(magnitudes: jax.Array, count: Any) -> jax.Array:
    """One layer's mask, found together with those of layers of other sizes."""
    others = {"small": jnp.ones(3), "large": jnp.arange(14.0), "far larger": jnp.arange(200.0)}
    counts = {"one": count, "small": 1, "large": 3, "far larger": 150}
    found = layer_masks({**others, "one": magnitudes}, counts)
    for name, values in others.items():
        np.testing.assert_array_equal(found[name], np.arange(values.size) >= counts[name])
    return found["one"]


prune = jax.jit(lambda magnitudes, count: layer_masks({"": magnitudes}, {"": count})[""])


# One layer ----------------------------------------------------------------------------------------


def naive_mask(magnitudes: np.ndarray, count: int) -> np.ndarray:
    """What stays when the first of the smallest goes, `count` times."""
    left = [float(w) for w in magnitudes.ravel()]
    kept = np.ones(len(left), bool)
    for _ in range(count):
        here = min((i for i in range(len(left)) if kept[i]), key=lambda i: left[i])
        kept[here] = False
    return kept.reshape(magnitudes.shape)


@settings(max_examples=60)
@given(values=st.lists(VALUES, min_size=12, max_size=12), count=st.integers(0, 11))
def test_exactly_the_smallest_go(values: list[float], count: int) -> None:
    magnitudes = np.abs(np.array(values, np.float32)).reshape(SHAPE)
    mask = np.asarray(prune(magnitudes, count))
    assert mask.dtype == bool
    assert (~mask).sum() == count
    np.testing.assert_array_equal(mask, naive_mask(magnitudes, count))


def test_of_equal_weights_the_first_go() -> None:
    mask = np.asarray(layer_mask(jnp.ones(SHAPE), 5))
    np.testing.assert_array_equal(mask.ravel(), [False] * 5 + [True] * 7)


def test_weights_marked_as_gone_go_first() -> None:
    """Those of removed channels, which have negative magnitudes."""
    mask = layer_mask(jnp.array([0.0, -1.0, 3.0, -1.0]), 2)
    np.testing.assert_array_equal(mask, [True, False, True, False])


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_values_that_are_not_finite_count_as_large(odd: float) -> None:
    mask = np.asarray(layer_mask(jnp.array([1.0, odd, 0.5, odd]), 2))
    np.testing.assert_array_equal(mask, [False, True, False, True])
    assert (~np.asarray(layer_mask(jnp.full(4, odd), 3))).sum() == 3


def test_one_program_serves_all_counts() -> None:
    traces = []

    @jax.jit
    def run(magnitudes: jax.Array, count: jax.Array) -> jax.Array:
        traces.append(count)
        mask: jax.Array = prune(magnitudes, count)
        return mask

    magnitudes = jnp.abs(jnp.asarray(np.random.default_rng(0).normal(size=SHAPE)))
    for count in range(12):
        assert int((~run(magnitudes, count)).sum()) == count
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("size", "sparsity", "count"),
    [
        (100, 0.0, 0),
        (100, 0.5, 50),
        (100, 0.999, 99),  # one stays
        (7, 0.5, 4),
        (5, 0.5, 2),  # 2.5 goes to the even neighbour
        (3, 0.1, 0),
        (1, 0.9, 0),
        (2, 0.9, 1),
        (10**6, 0.123456, 123456),
    ],
)
def test_counts(size: int, sparsity: float, count: int) -> None:
    assert pruned_count(size, sparsity) == count


@given(size=st.integers(1, 10**6), sparsity=st.floats(0, 1, exclude_max=True))
def test_counts_are_close_and_leave_a_weight(size: int, sparsity: float) -> None:
    count = pruned_count(size, sparsity)
    assert 0 <= count < size
    assert abs(count - size * sparsity) <= 0.5 or count == size - 1


# All layers together ------------------------------------------------------------------------------

SHAPES = {"a": (2, 3), "b": (4,), "c": (1,)}


def naive_global(magnitudes: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    kept = {n: np.ones(m.size, bool) for n, m in magnitudes.items()}
    safe = {n: int(np.argmax(m)) for n, m in magnitudes.items()}
    places = [
        (float(value), k, i, n)
        for k, (n, m) in enumerate(magnitudes.items())
        for i, value in enumerate(m.ravel())
        if i != safe[n]
    ]
    for *_, i, name in sorted(places)[:count]:
        kept[name][i] = False
    return {n: k.reshape(magnitudes[n].shape) for n, k in kept.items()}


@settings(max_examples=60)
@given(values=st.lists(VALUES, min_size=11, max_size=11), count=st.integers(0, 8))
def test_exactly_the_smallest_of_all_layers_go(values: list[float], count: int) -> None:
    magnitudes, start = {}, 0
    for name, shape in SHAPES.items():
        size = math.prod(shape)
        part = np.abs(np.array(values[start : start + size], np.float32))
        magnitudes[name], start = part.reshape(shape), start + size
    masks = jax.jit(global_masks)(magnitudes, count)
    assert {n: m.shape for n, m in masks.items()} == SHAPES
    assert sum(int((~m).sum()) for m in masks.values()) == count
    assert all(m.any() for m in masks.values())
    for name, mask in naive_global(magnitudes, count).items():
        np.testing.assert_array_equal(masks[name], mask)


def test_a_layer_of_small_weights_keeps_its_largest() -> None:
    magnitudes = {"small": jnp.array([1e-3, 2e-3, 1e-3]), "large": jnp.arange(10.0, 15.0)}
    masks = global_masks(magnitudes, 4)
    np.testing.assert_array_equal(masks["small"], [False, True, False])
    np.testing.assert_array_equal(masks["large"], [False, False, True, True, True])


# N of M -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (1, 2), (4, 8), (1, 6)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_largest_of_each_neighbours_stay(n: int, m: int, axis: int) -> None:
    rng = np.random.default_rng(0)
    magnitudes = np.round(np.abs(rng.normal(size=(24, 24, 24))), 1).astype(np.float32)  # with ties
    mask = np.asarray(n_of_m_mask(jnp.asarray(magnitudes), axis, n, m))
    assert mask.shape == magnitudes.shape
    kept = np.moveaxis(mask, axis, -1).reshape(-1, m)
    values = np.moveaxis(magnitudes, axis, -1).reshape(-1, m)
    assert (kept.sum(axis=1) == n).all()
    for here, row in zip(kept[:200], values[:200], strict=True):
        order = sorted(range(m), key=lambda i: (row[i], i))
        np.testing.assert_array_equal(np.flatnonzero(here), sorted(order[m - n :]))


def test_of_equal_neighbours_the_last_stay() -> None:
    mask = n_of_m_mask(jnp.ones((8, 1)), 0, 2, 4)
    np.testing.assert_array_equal(mask.ravel(), [False, False, True, True] * 2)


CONV = site("conv/kernel", (3, 3, 8, 4), kind="convolution", axes=(0, 1, 2))
OIHW = site("other", (4, 8, 3, 3), kind="convolution", axes=(2, 3, 1))
STACK = site("blocks/up/kernel", (3, 8, 16), axes=(1,), stack=1)
OUT = site("out", (6, 3))


def test_patterns_of_a_candidate() -> None:
    sites = {s.weight: s for s in (CONV, OIHW, STACK)}
    assert patterns({}, sites) == {}
    assert patterns({"pruning_pattern": "unstructured"}, sites) == {}
    assert patterns({"pruning_pattern": "2:4"}, sites) == dict.fromkeys(sites, (2, 4))
    some = {"pruning_pattern": "2:4", "pruning_pattern@convolution": "unstructured"}
    assert patterns(some, sites) == {STACK.weight: (2, 4)}
    assert patterns({"pruning_pattern@mlp": "1:8"}, sites) == {STACK.weight: (1, 8)}


def test_a_pattern_that_does_not_divide_names_the_site_and_the_fix() -> None:
    config = {"pruning_pattern": "2:4"}
    with pytest.raises(UsageError) as error:
        patterns(config, {STACK.weight: STACK, OUT.weight: OUT})
    told = str(error.value)
    assert "pruning_pattern 2:4 needs a multiple of 4 inputs" in told
    assert "'out' has 6 (shape (6, 3))" in told
    assert "'pruning_pattern@out': unstructured" in told
    fix = {"pruning_pattern@out": "unstructured"}
    fixed = patterns(config | fix, {STACK.weight: STACK, OUT.weight: OUT})
    assert fixed == {STACK.weight: (2, 4)}
    with pytest.raises(UsageError, match="'pruning_pattern@blocks/up': unstructured"):
        patterns({"pruning_pattern": "1:3"}, {STACK.weight: STACK})
    by_path = {"pruning_pattern": "1:3", "pruning_pattern@blocks/up": "unstructured"}
    assert patterns(by_path, {STACK.weight: STACK}) == {}


# Sparsity on the way ------------------------------------------------------------------------------


@pytest.mark.parametrize("final", [0.5, 0.9, 1.0])
def test_gradual_sparsity_is_the_formula(final: float) -> None:
    """s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3 with s_i = 0, over ten steps from 3."""
    for t in range(3, 14):
        expected = final + (0.0 - final) * (1 - (t - 3) / (10 * 1)) ** 3
        assert gradual_sparsity(final, (t - 3) / 10) == pytest.approx(expected, abs=1e-12)
    assert gradual_sparsity(final, 0.0) == 0
    assert gradual_sparsity(final, 1.0) == final
    assert gradual_sparsity(0.8, 0.5) == pytest.approx(0.7)  # 0.8 - 0.8 / 8


def test_gradual_sparsity_outside_of_its_span() -> None:
    for early in (-1e9, -0.1):
        assert gradual_sparsity(0.8, early) == 0
    for late in (1.1, 1e9, math.inf):
        assert gradual_sparsity(0.8, late) == 0.8


# Lottery tickets ----------------------------------------------------------------------------------


@given(
    sparsity=st.floats(1e-3, 0.999),
    highest=st.floats(0.05, 0.95),
)
def test_lottery_rounds_reach_the_sparsity_at_no_higher_rate(
    sparsity: float, highest: float
) -> None:
    rounds, rate = lottery_rounds({"lottery_rate": highest}, sparsity)
    assert rounds >= 1
    assert 0 < rate <= highest + 1e-9
    assert 1 - (1 - rate) ** rounds == pytest.approx(sparsity, abs=1e-12)
    if rounds > 1:  # no fewer would do
        assert 1 - (1 - highest) ** (rounds - 1) < sparsity + 1e-9


@pytest.mark.parametrize(
    ("sparsity", "rate", "rounds"),
    [(0.2, 0.2, 1), (0.36, 0.2, 2), (0.488, 0.2, 3), (0.5, 0.5, 1), (0.875, 0.5, 3)],
)
def test_a_power_of_the_rate_takes_no_round_more(sparsity: float, rate: float, rounds: int) -> None:
    found, each = lottery_rounds({"lottery_rate": rate}, sparsity)
    assert found == rounds
    assert each == pytest.approx(rate)


def test_lottery_rounds_by_default_and_of_nothing() -> None:
    assert lottery_rounds({}, 0.36)[0] == 2
    assert lottery_rounds({}, 0.0) == (0, 0.0)


def test_the_last_layer_loses_half_the_share_in_each_round() -> None:
    sites = {
        n: site(n, (8, 8), kind=kind)
        for n, kind in (("one", "dot"), ("two", "dot"), ("table", "embedding"))
    }
    config = {"pruning": "lottery_ticket", "sparsity": 0.488, "lottery_rate": 0.2}
    found = sparsities(config, sites)
    assert found["one"] == found["table"] == 0.488
    assert found["two"] == pytest.approx(1 - 0.9**3)  # three rounds at half of 0.2
    assert sparsities({"sparsity": 0.488}, sites) == dict.fromkeys(sites, 0.488)
    none = sparsities({"pruning": "lottery_ticket"}, sites)
    assert none == dict.fromkeys(sites, 0.0)


def test_sparsities_by_site() -> None:
    sites = {n: site(n, (8, 8)) for n in ("one", "two", "three")}
    config = {"sparsity": 0.5, "sparsity@last": 0.1, "sparsity@one": 0}
    assert sparsities(config, sites) == {"one": 0.0, "two": 0.5, "three": 0.1}
