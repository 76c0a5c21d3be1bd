"""The update rules against the formulae of their papers, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from paretax.spaces.training import SETTINGS, make_optimizer

STEPS = 8
START = np.array([1.0, -2.0, 0.5])
GRADIENTS = np.random.default_rng(0).normal(size=(STEPS + 2, 3))


def cosine(rate: float, step: int) -> float:
    return rate * 0.5 * (1 + math.cos(math.pi * min(step / STEPS, 1)))


def sgd(rate: float, decay: float) -> Iterator[np.ndarray]:
    """Nesterov's momentum of 0.9 in Sutskever's form, decay apart from it."""
    w, velocity = START.copy(), np.zeros(3)
    for step, g in enumerate(GRADIENTS):
        velocity = g + 0.9 * velocity
        w = w - cosine(rate, step) * (g + 0.9 * velocity + decay * w)
        yield w


def adamw(rate: float, decay: float) -> Iterator[np.ndarray]:
    """Loshchilov and Hutter, 2019, algorithm 2."""
    w, m, v = START.copy(), np.zeros(3), np.zeros(3)
    for step, g in enumerate(GRADIENTS):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        direction = (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
        w = w - cosine(rate, step) * (direction + decay * w)
        yield w


def lion(rate: float, decay: float) -> Iterator[np.ndarray]:
    """Chen et al., 2023, algorithm 2."""
    w, m = START.copy(), np.zeros(3)
    for step, g in enumerate(GRADIENTS):
        w = w - cosine(rate, step) * (np.sign(0.9 * m + 0.1 * g) + decay * w)
        m = 0.99 * m + 0.01 * g
        yield w


# Tolerances below are those of 1 - 0.999 in float32, by which Adam divides.
NAIVE = {"sgd": sgd, "adamw": adamw, "lion": lion}


def walk(
    name: str, rate: jax.Array | float, decay: jax.Array | float, steps: jax.Array | int
) -> jax.Array:
    """The weights after each step."""
    optimizer = make_optimizer(name, rate, decay, steps)
    start = jnp.asarray(START, jnp.float32)

    def step(
        carry: tuple[jax.Array, optax.OptState], gradient: jax.Array
    ) -> tuple[tuple[jax.Array, optax.OptState], jax.Array]:
        weights, state = carry
        updates, state = optimizer.update(gradient, state, weights)
        weights = jnp.asarray(optax.apply_updates(weights, updates))
        return (weights, state), weights

    gradients = jnp.asarray(GRADIENTS, jnp.float32)
    return jax.lax.scan(step, (start, optimizer.init(start)), gradients)[1]


@pytest.mark.parametrize("name", NAIVE)
def test_weights_follow_the_formula(name: str) -> None:
    """One compiled program for all rates, decays and lengths: they are traced."""
    traces = []

    @jax.jit
    def run(rate: jax.Array, decay: jax.Array, steps: jax.Array) -> jax.Array:
        traces.append(name)
        return walk(name, rate, decay, steps)

    for rate, decay in ((0.1, 0.0), (0.01, 0.3), (1.0, 0.05)):
        expected = np.stack(list(NAIVE[name](rate, decay)))
        np.testing.assert_allclose(run(rate, decay, STEPS), expected, rtol=1e-4, atol=5e-5)
    run(0.1, 0.0, STEPS + 1)
    assert len(traces) == 1


@pytest.mark.parametrize("name", NAIVE)
def test_plain_numbers_do_as_well(name: str) -> None:
    expected = np.stack(list(NAIVE[name](0.1, 0.3)))
    np.testing.assert_allclose(walk(name, 0.1, 0.3, STEPS), expected, rtol=1e-4, atol=5e-5)


def test_decay_is_decoupled_from_the_gradient() -> None:
    """Without a gradient each step removes the share rate x decay, whatever the optimiser."""
    for name in NAIVE:
        optimizer = make_optimizer(name, 0.5, 0.1, 4)
        weights = jnp.array([2.0])
        state = optimizer.init(weights)
        for step in range(4):
            updates, state = optimizer.update(jnp.zeros(1), state, weights)
            rate = 0.5 * 0.5 * (1 + math.cos(math.pi * step / 4))
            np.testing.assert_allclose(updates, -rate * 0.1 * weights, rtol=1e-5)
            weights = weights + updates


def test_the_rate_ends_at_zero_and_stays_there() -> None:
    weights = np.asarray(walk("sgd", 0.1, 0.1, STEPS))
    moved = np.abs(np.diff(weights, axis=0)).max(axis=1)
    assert (moved[: STEPS - 2] > 1e-4).all()
    assert moved[STEPS - 1 :].max() < 1e-6  # the steps at and past the end


def test_the_choices_of_a_space_are_the_optimisers() -> None:
    (setting,) = [s for s in SETTINGS if s.name == "optimizer"]
    assert all(setting.allows(name) for name in NAIVE)
    assert setting.rule == "one of " + ", ".join(sorted(NAIVE))
