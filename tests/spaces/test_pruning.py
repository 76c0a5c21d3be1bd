"""Magnitude pruning against a naive version: exact counts, whatever the ties."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretax.spaces.pruning import magnitude_mask, pruned_count

SHAPE = (3, 4)
prune = jax.jit(magnitude_mask)


def naive_mask(weights: np.ndarray, count: int) -> np.ndarray:
    """What stays when the first of the smallest goes, `count` times."""
    left = [abs(float(w)) for w in weights.ravel()]
    kept = np.ones(len(left), bool)
    for _ in range(count):
        here = min((i for i in range(len(left)) if kept[i]), key=lambda i: left[i])
        kept[here] = False
    return kept.reshape(weights.shape)


@settings(max_examples=60)
@given(
    values=st.lists(
        st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5]), st.floats(-2, 2, width=16)),
        min_size=12,
        max_size=12,
    ),
    count=st.integers(0, 11),
)
def test_exactly_the_smallest_go(values: list[float], count: int) -> None:
    weights = np.array(values, np.float32).reshape(SHAPE)
    mask = np.asarray(prune(weights, count))
    assert mask.dtype == bool
    assert (~mask).sum() == count
    np.testing.assert_array_equal(mask, naive_mask(weights, count))


def test_of_equal_weights_the_first_go() -> None:
    mask = np.asarray(magnitude_mask(jnp.ones(SHAPE), 5))
    np.testing.assert_array_equal(mask.ravel(), [False] * 5 + [True] * 7)


def test_one_program_serves_all_counts() -> None:
    traces = []

    @jax.jit
    def run(weights: jax.Array, count: jax.Array) -> jax.Array:
        traces.append(count)
        return magnitude_mask(weights, count)

    weights = jnp.asarray(np.random.default_rng(0).normal(size=SHAPE))
    for count in range(12):
        assert int((~run(weights, count)).sum()) == count
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
