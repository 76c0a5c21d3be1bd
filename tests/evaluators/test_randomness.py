"""The generator behind initial weights and dropout: uniform, and independent between keys."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats

from paretax.evaluators.randomness import training_key

SIZE = 20_000
LARGEST = 4.5 / np.sqrt(SIZE)  # of a correlation of independent numbers, beyond any chance


def uniform(key: jax.Array) -> np.ndarray:
    return np.asarray(jax.random.uniform(key, (SIZE,)))


FAMILIES = {
    "seeds": [training_key(seed) for seed in range(12)],
    "folds": [jax.random.fold_in(training_key(1), i) for i in range(12)],
    "splits": list(jax.random.split(training_key(1), 12)),
    "folds of folds": [
        jax.random.fold_in(jax.random.fold_in(training_key(0), i), j)
        for i in range(4)
        for j in range(3)
    ],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_give_numbers_of_their_own(family: str) -> None:
    numbers = np.stack([uniform(key) for key in FAMILIES[family]])
    assert np.abs(np.corrcoef(numbers) - np.eye(len(numbers))).max() < LARGEST


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_are_uniform(family: str) -> None:
    values = [stats.kstest(uniform(key), "uniform").pvalue for key in FAMILIES[family]]
    assert min(values) > 1e-4
    assert stats.kstest(values, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("lag", [1, 2, 3, 10, 64, 128, 1024])
def test_neighbours_are_independent(lag: int) -> None:
    numbers = uniform(training_key(3))
    assert abs(np.corrcoef(numbers[:-lag], numbers[lag:])[0, 1]) < LARGEST


@pytest.mark.parametrize("width", [8, 16, 32])
def test_every_bit_is_set_half_of_the_time(width: int) -> None:
    words = np.asarray(jax.random.bits(training_key(5), (1 << 16,), f"uint{width}"))
    assert words.dtype == f"uint{width}"
    share = ((words[:, None] >> np.arange(width, dtype=words.dtype)) & 1).mean(axis=0)
    assert np.abs(share - 0.5).max() < 4.5 * 0.5 / 256


def test_a_key_made_on_the_host_is_the_one_that_jax_makes() -> None:
    key = training_key(7)
    impl = jax.random.key_impl(key)
    np.testing.assert_array_equal(
        jax.random.key_data(key), jax.random.key_data(jax.random.key(7, impl=impl))
    )


def test_normal_numbers_are_normal() -> None:
    """As the initial weights of many layers."""
    numbers = np.asarray(jax.random.normal(training_key(2), (SIZE,)))
    assert stats.kstest(numbers, "norm").pvalue > 1e-4
