"""The grid of integers against its definition, and its gradients against their formulae."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.spaces.quantization import (
    codes,
    expand,
    group_length,
    largest_code,
    largest_weight,
    learned_step,
    scale,
    scale_axes,
    straight_through,
    widths,
)
from paretax.spaces.sites import Site

BITS = range(2, 9)
ONE = np.float32(1)


def quantize(
    weights: jax.Array, axes: tuple[int, ...], group: tuple[int, int] | None, bits: Any
) -> tuple[jax.Array, jax.Array]:
    """Codes and steps, put together from the parts."""
    limit = largest_code(bits)
    step = scale(largest_weight(weights, axes, group), limit)
    return codes(weights, expand(step, weights.shape), limit), step


def naive(
    weights: np.ndarray, axes: tuple[int, ...], group: tuple[int, int] | None, bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Those of one scale after the other."""
    limit = np.float32(2 ** (bits - 1) - 1)
    spans = [n if i in axes else 1 for i, n in enumerate(weights.shape)]
    if group is not None:
        spans[group[0]] = group[1]
    shape = [n // span for n, span in zip(weights.shape, spans, strict=True)]
    found, steps = np.zeros_like(weights), np.zeros(shape, np.float32)
    for place in np.ndindex(*shape):
        here = tuple(slice(p * s, (p + 1) * s) for p, s in zip(place, spans, strict=True))
        largest = np.abs(weights[here]).max()
        steps[place] = step = largest * (ONE / limit) if largest > 0 else ONE
        found[here] = np.clip(np.rint(weights[here] * (ONE / step)), -limit, limit)
    return found, steps


# The grid -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
def test_the_largest_code_is_exact(bits: int) -> None:
    """In every way in which it is computed: a power that is off by one bit would shift the grid."""
    expected = 2 ** (bits - 1) - 1
    assert float(largest_code(bits)) == expected
    assert float(jax.jit(largest_code)(bits)) == expected
    assert float(jax.jit(lambda: largest_code(bits))()) == expected
    assert largest_code(bits).dtype == jnp.float32


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize(
    ("axes", "group"),
    [
        ((0,), None),
        ((1,), None),
        ((0, 1), None),
        ((0, 1, 2), None),
        ((), None),
        ((0,), (0, 3)),
        ((0, 1), (1, 2)),
        ((1, 2), (2, 5)),
        ((2, 0), (0, 2)),  # the order of the axes does not matter
        ((0, 1, 2), (1, 4)),
    ],
)
def test_weights_are_those_of_the_naive_grid(
    bits: int, axes: tuple[int, ...], group: tuple[int, int] | None
) -> None:
    """Per channel, for the whole tensor, and in groups of neighbours."""
    weights = np.random.default_rng(bits).normal(size=(6, 4, 10)).astype(np.float32)
    expected, step = naive(weights, axes, group, bits)
    for run in (quantize, jax.jit(quantize, static_argnums=(1, 2))):
        found, found_step = run(jnp.asarray(weights), axes, group, bits)
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
    found, step = (np.asarray(a) for a in quantize(jnp.asarray(weights), (0,), None, bits))
    assert (np.abs(weights - found * step) <= step * 0.5001).all()
    limit = 2 ** (bits - 1) - 1
    assert (np.abs(found).max(axis=0) == limit).all()  # every channel uses its whole grid
    assert (found == np.rint(found)).all()


@pytest.mark.parametrize("bits", BITS)
def test_the_grid_is_symmetric(bits: int) -> None:
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(64, 8)), jnp.float32)
    found, step = quantize(weights, (0,), None, bits)
    mirrored, same = quantize(-weights, (0,), None, bits)
    np.testing.assert_array_equal(mirrored, -found)
    np.testing.assert_array_equal(same, step)
    assert float(jnp.min(codes(-1e9 * jnp.ones(1), jnp.float32(1), largest_code(bits)))) == -(
        2 ** (bits - 1) - 1
    )


def test_values_past_the_range_are_clipped_and_halves_go_to_the_even_side() -> None:
    values = jnp.array([-9.0, -2.5, -0.5, 0.5, 1.5, 2.5, 3.5, 9.0, jnp.inf, -jnp.inf])
    found = codes(values, jnp.float32(1.0), jnp.float32(3.0))
    np.testing.assert_array_equal(found, [-3, -2, 0, 0, 2, 2, 3, 3, 3, -3])


@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-37])
def test_what_is_zero_or_vanishes_stays_finite(largest: float) -> None:
    weights = jnp.array([[largest, 1.0], [-largest, -1.0]], jnp.float32)
    found, step = quantize(weights, (0,), None, 8)
    assert np.isfinite(found).all()
    assert (np.asarray(step) > 0).all()
    np.testing.assert_array_equal(np.asarray(found)[:, 1], [127, -127])
    assert float(scale(jnp.float32(0), jnp.float32(127))) == 1.0


def test_groups_are_expanded_beside_their_weights() -> None:
    step = jnp.arange(6.0).reshape(1, 3, 2)
    found = expand(step, (5, 6, 2))
    assert found.shape == (1, 6, 2)
    np.testing.assert_array_equal(found[0, :, 0], [0, 0, 2, 2, 4, 4])
    np.testing.assert_array_equal(expand(jnp.ones((1, 1)), (5, 6)), [[1.0]])


# What a site's scales are -------------------------------------------------------------------------


def site(shape: tuple[int, ...], axes: tuple[int, ...], **rest: Any) -> Site:
    return Site(**({"weight": "w", "kind": "dot", "shape": shape, "axes": axes} | rest))


@pytest.mark.parametrize(
    ("where", "length"),
    [
        (site((64, 3), (0,)), 32),
        (site((96, 3), (0,)), 32),
        (site((32, 3), (0,)), None),  # one group only
        (site((33, 3), (0,)), None),
        (site((16, 3), (0,)), None),
        (site((3, 64), (1,)), 32),
        (site((4, 64, 8), (0, 1)), 32),  # along the last of the axes
        (site((64, 4, 8), (0, 1)), None),
        (site((5, 64, 3), (1,), stack=1), 32),
        (site((3, 3, 64, 8), (0, 1, 2), kind="convolution"), 32),
        (site((8, 64, 3, 3), (2, 3, 1), kind="convolution"), 32),
        (site((3, 3, 64, 8), (0, 1, 2), kind="convolution", grouped=True), None),
        (site((64, 64), (0,), kind="embedding"), None),
    ],
)
def test_group_lengths(where: Site, length: int | None) -> None:
    assert group_length(where, "group", 32) == length
    assert group_length(where, "channel", 32) is None
    assert group_length(where, "tensor", 32) is None


def test_axes_that_share_a_scale() -> None:
    stack = site((5, 64, 3), (1,), stack=1)
    conv = site((3, 3, 4, 8), (0, 1, 2), kind="convolution")
    assert [scale_axes(s, "channel") for s in (stack, conv)] == [(1,), (0, 1, 2)]
    assert [scale_axes(s, "group") for s in (stack, conv)] == [(1,), (0, 1, 2)]
    assert [scale_axes(s, "tensor") for s in (stack, conv)] == [(1, 2), (0, 1, 2, 3)]


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
        ({"quantize": False, "weight_bits@mlp": 2}, (32, 32)),
        ({"weight_bits@mlp": 2}, (2, 32)),
        ({"quantize": True, "weight_bits": 6, "weight_bits@w": 2}, (2, 8)),
        ({"weight_bits@attention": 2}, (32, 32)),
    ],
)
def test_widths_of_a_candidate(config: dict[str, Any], expected: tuple[int, int]) -> None:
    assert widths(config, {"w": site((4, 3), (0,))}) == {"w": expected}


def test_widths_by_site() -> None:
    sites = {n: site((4, 3), (0,)) for n in ("a", "b", "c")}
    sites["e"] = site((4, 3), (0,), kind="embedding")
    config = {"quantize": True, "weight_bits@first": 4, "activation_bits@last": 2}
    assert widths(config, sites) == {"a": (4, 8), "b": (8, 8), "c": (8, 2), "e": (8, 32)}
    assert widths({"activation_bits": 4}, sites)["e"] == (32, 32)  # its inputs are whole anyway


# Gradients ----------------------------------------------------------------------------------------

VALUES = np.random.default_rng(0).normal(size=4000).astype(np.float32)


@pytest.mark.parametrize("bits", BITS)
def test_fake_quantised_values_are_codes_times_step_exactly(bits: int) -> None:
    """In both ways of training, compiled or not: the deployed program has the same numbers."""
    limit, values = largest_code(bits), jnp.asarray(VALUES)
    for size in (0.003, 0.02, 0.17, 0.7):
        step = jnp.float32(size)
        expected = np.asarray(codes(values, step, limit)) * np.float32(size)
        for jitted in (False, True):
            straight = jax.jit(straight_through) if jitted else straight_through
            learned = jax.jit(learned_step) if jitted else learned_step
            np.testing.assert_array_equal(straight(values, step, limit), expected)
            for sharing in (1.0, 100.0, 4000.0):
                np.testing.assert_array_equal(learned(values, step, limit, sharing), expected)


@pytest.mark.parametrize("bits", BITS)
def test_gradients_pass_straight_through_inside_and_not_outside(bits: int) -> None:
    limit, step = largest_code(bits), jnp.float32(0.1)
    end = 0.1 * (2 ** (bits - 1) - 1)
    values = jnp.linspace(-1.5 * end, 1.5 * end, 400)
    inside = np.abs(np.asarray(values)) < end

    def total(values: jax.Array, step: jax.Array) -> jax.Array:
        return jnp.sum(jnp.arange(400.0) * straight_through(values, step, limit))

    gradient, of_step = jax.jit(jax.grad(total, argnums=(0, 1)))(values, step)
    np.testing.assert_array_equal(gradient, np.where(inside, np.arange(400.0), 0.0))
    assert float(of_step) == 0
    assert inside.any()
    assert not inside.all()


@pytest.mark.parametrize("bits", BITS)
def test_the_largest_weight_of_each_channel_has_its_whole_gradient(bits: int) -> None:
    """It lies on the edge of the grid, to within rounding."""
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(16, 500)), jnp.float32)
    limit = largest_code(bits)
    step = scale(largest_weight(weights, (0,), None), limit)
    run = jax.jit(jax.grad(lambda w: jnp.sum(straight_through(w, step, limit))))
    np.testing.assert_array_equal(run(weights), np.ones((16, 500)))


def test_gradients_of_values_that_are_not_finite() -> None:
    values = jnp.array([jnp.inf, -jnp.inf, jnp.nan, 1.0])
    step, limit = jnp.float32(1), jnp.float32(3)
    np.testing.assert_array_equal(straight_through(values, step, limit), [3, -3, np.nan, 1])
    gradient = jax.grad(lambda v: jnp.sum(straight_through(v, step, limit)))(values)
    np.testing.assert_array_equal(gradient, [0, 0, 0, 1])


def naive_lsq(values: np.ndarray, step: float, limit: int) -> np.ndarray:
    """Equation 3 of Esser et al.: the derivative of the quantised value by the step."""
    ratio = values.astype(np.float64) / step
    inside = np.rint(ratio) - ratio
    return np.where(ratio <= -limit, -limit, np.where(ratio >= limit, limit, inside))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("size", [0.02, 0.3])
def test_the_gradient_of_a_learned_step_is_the_papers(bits: int, size: float) -> None:
    limit = 2 ** (bits - 1) - 1
    incoming = np.random.default_rng(1).normal(size=VALUES.size).astype(np.float32)

    def total(values: jax.Array, step: jax.Array) -> jax.Array:
        return jnp.sum(incoming * learned_step(values, step, jnp.float32(limit), VALUES.size))

    run = jax.jit(jax.grad(total, argnums=(0, 1)))
    of_values, of_step = run(VALUES, jnp.float32(size))
    factor = 1 / np.sqrt(VALUES.size * limit)
    expected = factor * np.sum(incoming * naive_lsq(VALUES, size, limit))
    np.testing.assert_allclose(of_step, expected, rtol=2e-3, atol=2e-3)
    inside = np.abs(VALUES) < size * limit
    np.testing.assert_allclose(of_values, np.where(inside, incoming, 0), rtol=1e-6)


def test_the_gradient_of_each_learned_step_by_itself() -> None:
    """Value by value, without a sum that could hide an error."""
    values, limit = jnp.asarray(VALUES[:300]), 3

    def each(value: jax.Array, step: jax.Array) -> jax.Array:
        return learned_step(value, step, jnp.float32(limit), 1.0)

    found = jax.vmap(jax.grad(each, argnums=1), in_axes=(0, None))(values, jnp.float32(0.4))
    expected = naive_lsq(VALUES[:300], 0.4, limit) / np.sqrt(limit)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
