"""The grid of integers against its definition."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.spaces.quantization import codes, largest_code, quantize_weights, scale, widths

BITS = range(2, 9)


@pytest.mark.parametrize("bits", BITS)
def test_the_largest_code_is_exact(bits: int) -> None:
    """In every way in which it is computed: a power that is off by one bit would shift the grid."""
    expected = 2 ** (bits - 1) - 1
    assert float(largest_code(bits)) == expected
    assert float(jax.jit(largest_code)(bits)) == expected
    assert float(jax.jit(lambda: largest_code(bits))()) == expected
    assert largest_code(bits).dtype == jnp.float32


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1), (0, 1, 2), ()])
def test_weights_are_those_of_the_naive_grid(bits: int, axes: tuple[int, ...]) -> None:
    weights = np.random.default_rng(bits).normal(size=(3, 4, 5)).astype(np.float32)
    one, limit = np.float32(1), np.float32(2 ** (bits - 1) - 1)
    step = np.abs(weights).max(axis=axes, keepdims=True) * (one / limit)
    expected = np.clip(np.rint(weights * (one / step)), -limit, limit)
    for run in (quantize_weights, jax.jit(quantize_weights, static_argnums=1)):
        found, found_step = run(jnp.asarray(weights), axes, bits)
        np.testing.assert_array_equal(found_step, step)
        np.testing.assert_array_equal(found, expected)


def test_every_program_computes_the_same_integers() -> None:
    """A compiler that divides in one and multiplies in another would round halves apart."""
    limit = largest_code(8)
    largest = np.random.default_rng(0).uniform(0.1, 9.0, 200).astype(np.float32)
    halves = np.arange(200, dtype=np.float32) % 127 + np.float32(0.5)
    values = halves * (largest / np.float32(127))  # next to the edge between two codes

    @jax.jit
    def run(value: jax.Array, largest: jax.Array, limit: jax.Array) -> jax.Array:
        return codes(value, scale(largest, limit), limit)

    alone = np.stack([run(v, r, limit) for v, r in zip(values, largest, strict=True)])
    np.testing.assert_array_equal(run(values, largest, limit), alone)
    batched = jax.jit(jax.vmap(run, in_axes=(None, 0, None)))(values, largest, limit)
    np.testing.assert_array_equal(jnp.diagonal(batched), alone)
    spread = np.stack([run(values, r, limit) for r in largest])
    np.testing.assert_array_equal(np.diagonal(spread), alone)
    with jax.disable_jit():
        np.testing.assert_array_equal(run(values, largest, limit), alone)


@pytest.mark.parametrize("bits", BITS)
def test_the_error_is_half_a_step(bits: int) -> None:
    weights = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    found, step = (np.asarray(a) for a in quantize_weights(jnp.asarray(weights), (0,), bits))
    assert (np.abs(weights - found * step) <= step * 0.5001).all()
    limit = 2 ** (bits - 1) - 1
    assert (np.abs(found).max(axis=0) == limit).all()  # every channel uses its whole grid
    assert (found == np.rint(found)).all()


def test_values_past_the_range_are_clipped_and_halves_go_to_the_even_side() -> None:
    values = jnp.array([-9.0, -2.5, -0.5, 0.5, 1.5, 2.5, 3.5, 9.0])
    found = codes(values, jnp.float32(1.0), jnp.float32(3.0))
    np.testing.assert_array_equal(found, [-3, -2, 0, 0, 2, 2, 3, 3])


@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-37])
def test_what_is_zero_or_vanishes_stays_finite(largest: float) -> None:
    weights = jnp.array([[largest, 1.0], [-largest, -1.0]], jnp.float32)
    found, step = quantize_weights(weights, (0,), 8)
    assert np.isfinite(found).all()
    assert (np.asarray(step) > 0).all()
    np.testing.assert_array_equal(np.asarray(found)[:, 1], [127, -127])
    assert float(scale(jnp.float32(0), jnp.float32(127))) == 1.0


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, (32, 32)),
        ({"quantize": False}, (32, 32)),
        ({"quantize": True}, (8, 8)),
        ({"quantize": True, "weight_bits": 4}, (4, 8)),
        ({"quantize": True, "activation_bits": 3}, (8, 3)),
        ({"weight_bits": 4}, (4, 32)),
        ({"activation_bits": 6}, (32, 6)),
        ({"weight_bits": 2, "activation_bits": 3}, (2, 3)),
        ({"quantize": False, "weight_bits": 2, "activation_bits": 3}, (32, 32)),
    ],
)
def test_widths_of_a_candidate(config: dict[str, Any], expected: tuple[int, int]) -> None:
    assert widths(config) == expected
