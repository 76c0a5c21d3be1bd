"""Constants lifted out of a graph: one program for all of their values, and the same results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from paretax.evaluators import AccuracyEvaluator, Workbench
from paretax.evaluators.lifting import lift
from paretax.evaluators.randomness import training_key
from paretax.tasks import load_task

SHAPE = jax.ShapeDtypeStruct((4,), jnp.float32)
X = jnp.arange(4.0)


def scaled(by: float) -> Callable[[jax.Array], jax.Array]:
    return lambda x: jnp.sin(x) * by + 0.5


def in_a_function(by: float) -> Callable[[jax.Array], jax.Array]:
    return lambda x: jax.jit(lambda y: jax.checkpoint(lambda z: z * by)(y) - by)(x)


def in_a_scan(by: float) -> Callable[[jax.Array], jax.Array]:
    def run(x: jax.Array) -> jax.Array:
        total, _ = jax.lax.scan(lambda carry, part: (carry * by + part, None), 0.0 * x[0], x)
        return total

    return run


def in_a_custom_gradient(by: float) -> Callable[[jax.Array], jax.Array]:
    return lambda x: jax.nn.relu(x - 1.0) * by + jax.nn.softplus(by * x)


MAKERS = [scaled, in_a_function, in_a_scan, in_a_custom_gradient]


@pytest.mark.parametrize("make", MAKERS)
def test_one_program_gives_what_each_value_gives(make: Any) -> None:
    one, other = lift(make(0.3), make(0.29), SHAPE), lift(make(0.7), make(0.69), SHAPE)
    assert one is not None
    assert other is not None
    assert one.fingerprint == other.fingerprint
    run: Any = jax.jit(one.run)
    for by, lifted in ((0.3, one), (0.7, other)):
        np.testing.assert_allclose(run(lifted.numbers, X), make(by)(X), rtol=1e-6)
        gradient = jax.grad(lambda x, f=lifted: f.run(f.numbers, x).sum())(X)
        np.testing.assert_allclose(gradient, jax.grad(lambda x, b=by: make(b)(x).sum())(X), 1e-6)
    assert run._cache_size() == 1


def test_constants_that_do_not_vary_stay_and_count() -> None:
    one = lift(lambda x: x * 0.3 + 0.5, lambda x: x * 0.4 + 0.5, SHAPE)
    other = lift(lambda x: x * 0.3 + 0.6, lambda x: x * 0.4 + 0.6, SHAPE)
    assert one is not None
    assert other is not None
    assert len(one.numbers) == len(other.numbers) == 1
    assert one.fingerprint != other.fingerprint


def test_a_number_that_shapes_the_graph_is_not_lifted() -> None:
    def wide(by: float) -> Callable[[jax.Array], jax.Array]:
        return lambda x: jnp.concatenate([x] * int(10 * by))

    assert lift(wide(0.3), wide(0.2), SHAPE) is None
    same = lift(wide(0.35), wide(0.34), SHAPE)
    assert same is not None
    assert same.numbers == ()
    wider = lift(wide(0.45), wide(0.44), SHAPE)
    assert wider is not None
    assert wider.fingerprint != same.fingerprint


def test_a_number_in_a_branch_is_not_lifted() -> None:
    def branched(by: float) -> Callable[[jax.Array], jax.Array]:
        return lambda x: jax.lax.cond(x[0] > 0, lambda y: y * by, lambda y: y, x)

    assert lift(branched(0.3), branched(0.2), SHAPE) is None


def test_a_model_that_refuses_another_number_keeps_its_own() -> None:
    def strict(x: jax.Array) -> jax.Array:
        raise ValueError("0.3 or nothing")

    assert lift(scaled(0.3), strict, SHAPE) is None


def test_choices_that_are_no_fractions_are_never_shared() -> None:
    """Also where the graphs are printed alike, as functions with gradients of their own are."""

    @jax.custom_jvp
    def plain(x: jax.Array) -> jax.Array:
        return x

    @jax.custom_jvp
    def other(x: jax.Array) -> jax.Array:
        return x

    plain.defjvp(lambda primals, tangents: (primals[0], tangents[0]))
    other.defjvp(lambda primals, tangents: (primals[0], 2 * tangents[0]))

    def pair(config: Any) -> Any:
        through = plain if config["gradient"] == "plain" else other
        return (
            lambda key, x: {"w": jnp.ones((30, 2))},
            lambda params, x: through(x @ params["w"]) * config["scale"],
        )

    task: Any = load_task("breast_cancer")
    bench = Workbench(replace(task, model=pair, defaults={"gradient": "plain", "scale": 0.5}))
    keys = {
        (kind, scale): bench.prepared({"gradient": kind, "scale": scale}).key
        for kind in ("plain", "other")
        for scale in (0.5, 0.25)
    }
    assert keys["plain", 0.5] != keys["other", 0.5]


def test_arrays_in_a_graph_count() -> None:
    table = np.arange(4, dtype=np.float32)
    one = lift(lambda x: x + jnp.asarray(table), None, SHAPE)
    other = lift(lambda x: x + jnp.asarray(table + 1), None, SHAPE)
    assert one is not None
    assert other is not None
    assert one.fingerprint != other.fingerprint


class LinenNet(linen.Module):
    rate: float

    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = linen.relu(linen.Dense(8)(x))
        return linen.Dense(2)(linen.Dropout(self.rate, deterministic=not train)(x))


class NnxNet(nnx.Module):
    def __init__(self, rate: float, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(30, 8, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.out = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(self.dropout(nnx.relu(self.hidden(x))))


def dropping(kind: str) -> Workbench:
    """The breast cancer task with a model that has dropout."""
    builds: dict[str, Any] = {
        "linen": lambda config: LinenNet(config["dropout"]),
        "nnx": lambda config, rngs: NnxNet(config["dropout"], rngs),
    }
    task: Any = load_task("breast_cancer")
    return Workbench(replace(task, model=builds[kind], defaults={"dropout": 0.1}))


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_dropout_is_a_number(kind: str, compiled: list[str]) -> None:
    evaluator = AccuracyEvaluator(dropping(kind))
    base = {"epochs": 3, "batch_size": 64, "learning_rate": 0.01}
    found = {}
    for rate in (0.2, 0.45, 0.7):
        weights = evaluator.train({**base, "dropout": rate}, 0)
        found[rate] = {n: np.asarray(w) for n, w in weights.items()}
        if rate == 0.2:
            assert compiled
            compiled.clear()
    assert compiled == []
    kernels = [n for n in found[0.2] if "hidden" in n or "Dense_0" in n]
    for name in kernels:
        assert not np.array_equal(found[0.2][name], found[0.45][name])
        assert not np.array_equal(found[0.45][name], found[0.7][name])


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_a_lifted_rate_drops_that_share(kind: str) -> None:
    bench = dropping(kind)
    for rate in (0.25, 0.6):
        prepared = bench.prepared({"dropout": rate})
        params, state = prepared.init(training_key(0), prepared.numbers)
        bias = next(n for n in params if n.endswith("bias") and params[n].shape == (8,))
        params = {**params, bias: jnp.full(8, 100.0, jnp.float32)}  # all are active
        last = next(n for n in params if n.endswith("kernel") and params[n].shape == (8, 2))
        params = {**params, last: jnp.eye(8, 2, dtype=jnp.float32)}
        inputs = jnp.zeros((4000, 30))
        noise = (training_key(1), prepared.numbers)
        outputs, _ = prepared.apply(params, state, inputs, noise)
        kept = np.asarray(outputs) != 0
        assert kept.mean() == pytest.approx(1 - rate, abs=0.02)
        assert np.asarray(outputs)[kept] == pytest.approx(100 / (1 - rate), rel=1e-4)


def test_without_dropout_the_graph_is_another() -> None:
    bench = dropping("linen")
    keys = {rate: bench.prepared({"dropout": rate}).key for rate in (0.0, 0.1, 0.5)}
    assert keys[0.1] == keys[0.5] != keys[0.0]
