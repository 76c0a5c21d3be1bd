"""The update rules against the formulae of their papers, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from paretax.spaces.training import SETTINGS, cosine, make_optimizer

STEPS = 8
START = np.array([1.0, -2.0, 0.5])
GRADIENTS = np.random.default_rng(0).normal(size=(STEPS + 2, 3))


def naive_rate(rate: float, step: int) -> float:
    return rate * 0.5 * (1 + math.cos(math.pi * min(step / STEPS, 1)))


def sgd(rate: float, decay: float) -> Iterator[np.ndarray]:
    """Nesterov's momentum of 0.9 in Sutskever's form, decay apart from it."""
    w, velocity = START.copy(), np.zeros(3)
    for step, g in enumerate(GRADIENTS):
        velocity = g + 0.9 * velocity
        w = w - naive_rate(rate, step) * (g + 0.9 * velocity + decay * w)
        yield w


def adamw(rate: float, decay: float) -> Iterator[np.ndarray]:
    """Loshchilov and Hutter, 2019, algorithm 2."""
    w, m, v = START.copy(), np.zeros(3), np.zeros(3)
    for step, g in enumerate(GRADIENTS):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        direction = (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
        w = w - naive_rate(rate, step) * (direction + decay * w)
        yield w


def lion(rate: float, decay: float) -> Iterator[np.ndarray]:
    """Chen et al., 2023, algorithm 2."""
    w, m = START.copy(), np.zeros(3)
    for step, g in enumerate(GRADIENTS):
        w = w - naive_rate(rate, step) * (np.sign(0.9 * m + 0.1 * g) + decay * w)
        m = 0.99 * m + 0.01 * g
        yield w


# Tolerances below are those of 1 - 0.999 in float32, by which Adam divides.
NAIVE = {"sgd": sgd, "adamw": adamw, "lion": lion}


def walk(
    name: str, rate: jax.Array | float, decay: jax.Array | float, steps: jax.Array | int
) -> jax.Array:
    """The weights after each step, along a cosine."""
    start = jnp.asarray(START, jnp.float32)

    def step(
        carry: tuple[jax.Array, optax.OptState], given: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, optax.OptState], jax.Array]:
        weights, state = carry
        gradient, number = given
        optimizer = make_optimizer(name, rate * cosine(number, steps), decay)
        updates, state = optimizer.update(gradient, state, weights)
        weights = jnp.asarray(optax.apply_updates(weights, updates))
        return (weights, state), weights

    gradients = jnp.asarray(GRADIENTS, jnp.float32)
    begun = start, make_optimizer(name, 0.0, 0.0).init(start)
    return jax.lax.scan(step, begun, (gradients, jnp.arange(len(gradients))))[1]


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
        weights = jnp.array([2.0])
        state = make_optimizer(name, 0.0, 0.0).init(weights)
        for step in range(4):
            rate = 0.5 * 0.5 * (1 + math.cos(math.pi * step / 4))
            optimizer = make_optimizer(name, rate, 0.1)
            updates, state = optimizer.update(jnp.zeros(1), state, weights)
            np.testing.assert_allclose(updates, -rate * 0.1 * weights, rtol=1e-5)
            weights = weights + updates


@pytest.mark.parametrize("name", NAIVE)
def test_some_parameters_do_not_decay(name: str) -> None:
    """Such as learned steps; the state is the same for all."""
    params = {"a/w": jnp.array([2.0]), "a/w.step": jnp.array([2.0]), "w.step/b": jnp.array([2.0])}
    decays = {"a/w": 1.0, "a/w.step": jnp.array([0.0]), "w.step/b": 1.0}
    optimizer = make_optimizer(name, 0.5, 0.1, decays)
    state = make_optimizer(name, 0.0, 0.0).init(params)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params)
    decayed = {n: float(u[0]) for n, u in updates.items()}
    assert decayed == {"a/w": pytest.approx(-0.1), "a/w.step": 0, "w.step/b": pytest.approx(-0.1)}


@pytest.mark.parametrize("name", NAIVE)
def test_parameters_that_do_not_decay_still_learn(name: str) -> None:
    params = {"w": jnp.array([2.0]), "w.step": jnp.array([2.0])}
    gradients = jax.tree.map(jnp.ones_like, params)
    plain, kept = (
        make_optimizer(name, 0.5, 0.0),
        make_optimizer(name, 0.5, 0.3, {"w": 1.0, "w.step": 0.0}),
    )
    expected, _ = plain.update(gradients, plain.init(params), params)
    found, _ = kept.update(gradients, kept.init(params), params)
    assert float(found["w.step"][0]) == float(expected["w.step"][0]) < 0
    assert float(found["w"][0]) == pytest.approx(float(expected["w"][0]) - 0.5 * 0.3 * 2.0)


@pytest.mark.parametrize("steps", [1, 7, 100])
def test_the_cosine_is_the_formula(steps: int) -> None:
    """Loshchilov and Hutter, 2017, equation 5, from 1 to 0 and not up again."""
    found = [float(cosine(jnp.float32(step), steps)) for step in range(steps + 1)]
    expected = [0.5 * (1 + math.cos(math.pi * step / steps)) for step in range(steps + 1)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[0] == 1
    assert found[-1] == 0
    assert float(cosine(jnp.float32(5 * steps), steps)) == 0


def test_the_rate_ends_at_zero_and_stays_there() -> None:
    weights = np.asarray(walk("sgd", 0.1, 0.1, STEPS))
    moved = np.abs(np.diff(weights, axis=0)).max(axis=1)
    assert (moved[: STEPS - 2] > 1e-4).all()
    assert moved[STEPS - 1 :].max() < 1e-6  # the steps at and past the end


def test_the_choices_of_a_space_are_the_optimisers() -> None:
    (setting,) = [s for s in SETTINGS if s.name == "optimizer"]
    assert all(setting.allows(name) for name in NAIVE)
    assert setting.rule == "one of " + ", ".join(sorted(NAIVE))
