"""Ranges from data against NumPy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.spaces.calibration import (
    BINS,
    histogram,
    least_error_range,
    least_error_weights,
    percentile_range,
)
from paretax.spaces.quantization import codes, expand, largest_code, largest_weight, scale

BITS = range(2, 9)
DATA: dict[str, Any] = {
    "normal": lambda rng: rng.normal(size=20000),
    "uniform": lambda rng: rng.uniform(-3, 3, 20000),
    "heavy tails": lambda rng: rng.standard_t(3, 20000),
    "half of it zero": lambda rng: np.maximum(rng.normal(size=20000), 0),
    "an outlier": lambda rng: np.append(rng.normal(size=20000), 100.0),
    "few": lambda rng: rng.normal(size=7),
}


@pytest.fixture(params=DATA)
def values(request: pytest.FixtureRequest) -> np.ndarray:
    found: np.ndarray = DATA[request.param](np.random.default_rng(0)).astype(np.float32)
    return found


def seen(values: Any) -> tuple[jax.Array, jax.Array]:
    """The histogram and the largest magnitude."""
    values = jnp.asarray(values, jnp.float32)
    largest = jnp.max(jnp.abs(values))
    return jax.jit(histogram)(values, largest), largest


# Histograms ---------------------------------------------------------------------------------------


def test_a_histogram_is_numpys(values: np.ndarray) -> None:
    counts, largest = seen(values)
    expected, _ = np.histogram(np.abs(values), BINS, (0, float(largest)))
    assert counts.shape == (BINS,)
    assert counts.dtype == jnp.int32
    assert float(counts.sum()) == values.size
    moved = np.abs(np.cumsum(np.asarray(counts)) - np.cumsum(expected))
    assert moved.max() <= 3  # on the edge between two bins


def test_a_histogram_by_hand() -> None:
    values = jnp.array([[0.0, 0.4], [-0.5, BINS - 0.5], [BINS, -BINS]])
    counts = np.asarray(histogram(values, jnp.float32(BINS)))
    assert counts[0] == 3
    assert counts[-1] == 3
    assert counts.sum() == 6


def test_histograms_of_parts_add_up(values: np.ndarray) -> None:
    whole, largest = seen(values)
    parts = [histogram(jnp.asarray(p), largest) for p in np.array_split(values, 3)]
    np.testing.assert_array_equal(sum(parts), whole)


def test_a_histogram_of_nothing_but_zeros() -> None:
    counts, largest = seen(np.zeros(5))
    np.testing.assert_array_equal(counts, [5.0] + [0.0] * (BINS - 1))
    assert float(percentile_range(counts, largest, 99.0)) == 0
    assert float(least_error_range(counts, largest, largest_code(4))) == 0


# Percentiles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("percentile", [50.1, 75.0, 90.0, 99.0, 99.9, 99.99, 100.0])
def test_percentiles_are_numpys_to_within_a_bin(values: np.ndarray, percentile: float) -> None:
    counts, largest = seen(values)
    found = float(jax.jit(percentile_range)(counts, largest, percentile))
    expected = float(np.percentile(np.abs(values), percentile, method="inverted_cdf"))
    width = float(largest) / BINS
    assert expected - 1e-5 * width <= found <= expected + 1.01 * width
    assert np.mean(np.abs(values) <= found) >= percentile / 100 - 1e-6


def test_all_of_it_is_the_largest_magnitude(values: np.ndarray) -> None:
    counts, largest = seen(values)
    assert float(percentile_range(counts, largest, 100.0)) == float(largest)


def test_percentiles_by_hand() -> None:
    """Three quarters in the first bin, a quarter in the last."""
    counts = jnp.zeros(BINS).at[0].set(3).at[-1].set(1)
    largest = jnp.float32(BINS)
    assert [float(percentile_range(counts, largest, p)) for p in (60, 75, 76, 100)] == [
        1,
        1,
        BINS,
        BINS,
    ]


def test_a_percentile_grows_with_the_share(values: np.ndarray) -> None:
    counts, largest = seen(values)
    found = [float(percentile_range(counts, largest, p)) for p in np.linspace(51, 100, 30)]
    assert found == sorted(found)


# Least error --------------------------------------------------------------------------------------


def error(values: np.ndarray, end: Any, bits: int) -> float:
    """The mean squared error of what a grid up to `end` makes of the values."""
    limit = 2 ** (bits - 1) - 1
    step = float(end) / limit
    exact = values.astype(np.float64)
    return float(np.mean((np.clip(np.rint(exact / step), -limit, limit) * step - exact) ** 2))


@pytest.mark.parametrize("bits", BITS)
def test_least_error_is_never_above_that_of_the_whole_range(values: np.ndarray, bits: int) -> None:
    counts, largest = seen(values)
    end = jax.jit(least_error_range)(counts, largest, largest_code(bits))
    assert 0 < float(end) <= float(largest)
    slack = (float(largest) / BINS) ** 2  # each value stands at the centre of its bin
    assert error(values, end, bits) <= error(values, largest, bits) * (1 + 1e-6) + slack


@pytest.mark.parametrize("bits", BITS)
def test_of_all_ranges_it_is_the_best_on_the_histogram(bits: int) -> None:
    """Values at the centres of their bins: what the histogram knows is all there is."""
    rng = np.random.default_rng(0)
    places = np.minimum(rng.exponential(100, 5000), BINS - 1).astype(int)
    places[0] = BINS - 1
    values = ((places + 0.5) * 2.0**-8).astype(np.float32)
    largest = jnp.float32(BINS * 2.0**-8)
    counts = histogram(jnp.asarray(values), largest)
    end = float(least_error_range(counts, largest, largest_code(bits)))
    errors = [error(values, (i + 1) / 64 * float(largest), bits) for i in range(64)]
    assert error(values, end, bits) <= min(errors) * (1 + 1e-5)
    assert error(values, end, bits) <= error(values, largest, bits)


def test_an_outlier_is_clipped_at_few_bits_and_kept_at_many() -> None:
    values = np.append(np.random.default_rng(0).normal(size=20000), 12.0).astype(np.float32)
    counts, largest = seen(values)
    ends = [float(least_error_range(counts, largest, largest_code(b))) for b in BITS]
    assert ends[0] < 0.4 * float(largest)
    assert ends == sorted(ends)


# Weights ------------------------------------------------------------------------------------------

SCALES: dict[str, tuple[tuple[int, ...], tuple[int, int] | None]] = {
    "channel": ((0, 1), None),
    "tensor": ((0, 1, 2), None),
    "group": ((0, 1), (1, 4)),
    "stack": ((1,), None),
}


def sums(squares: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The squares under each scale, added up."""
    found = np.zeros(shape)
    for place in np.ndindex(*squares.shape):
        under = (p * n // m for p, n, m in zip(place, shape, squares.shape, strict=True))
        found[tuple(under)] += squares[place]
    return found


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("scales", SCALES)
def test_least_error_of_weights_is_never_above_that_of_the_whole_range(
    scales: str, bits: int
) -> None:
    axes, group = SCALES[scales]
    weights = jnp.asarray(np.random.default_rng(0).standard_t(4, (3, 8, 5)), jnp.float32)
    limit = largest_code(bits)
    largest = largest_weight(weights, axes, group)
    found = jax.jit(least_error_weights)(weights, largest, limit)
    assert found.shape == largest.shape
    assert (np.asarray(found) <= np.asarray(largest)).all()
    assert (np.asarray(found) >= 0.4 * np.asarray(largest)).all()

    def errors(ends: Any) -> np.ndarray:
        step = expand(scale(jnp.asarray(ends, jnp.float32), limit), weights.shape)
        off = np.asarray(codes(weights, step, limit) * step - weights, np.float64)
        return sums(off**2, largest.shape)

    best, whole = errors(found), errors(largest)
    assert (best <= whole * (1 + 1e-5)).all()
    for ratio in 1 - np.arange(24) * 0.025:  # each scale by itself takes its best ratio
        assert (best <= errors(largest * np.float32(ratio)) * (1 + 1e-4) + 1e-9).all()
    if bits == 2:
        assert best.sum() < 0.9 * whole.sum()


def test_weights_of_zero_have_a_range_of_zero() -> None:
    weights = jnp.array([[0.0, 1.0], [0.0, -0.5]])
    largest = largest_weight(weights, (0,), None)
    found = np.asarray(least_error_weights(weights, largest, largest_code(4)))
    assert found[0, 0] == 0
    assert found[0, 1] > 0
