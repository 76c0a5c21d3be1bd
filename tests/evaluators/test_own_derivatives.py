"""Models with derivatives of their own: trained by them, or refused before training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from paretax.errors import UsageError
from paretax.evaluators import AccuracyEvaluator, Workbench
from paretax.tasks import Data, Split, classification

QAT = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05, "qat_start": 0.0, "weight_bits": 8}
STE = {**QAT, "activation_bits": 8, "qat": "ste"}
LSQ = {**QAT, "activation_bits": 8, "qat": "lsq"}
MATCHED = {"epochs": 2, "batch_size": 16, "distill": True, "feature_weight": 1.0}


@jax.custom_vjp
def binary(x: Any, w: Any) -> Any:
    return jnp.sign(x) @ w


binary.defvjp(
    lambda x, w: (binary(x, w), (x, w)),
    lambda kept, g: ((g @ kept[1].T) * (jnp.abs(kept[0]) <= 1), jnp.sign(kept[0]).T @ g),
)


def around(x: Any) -> Any:
    """Its backward pass uses what is computed around it."""
    scale = jnp.mean(x)

    def leaning(y: Any) -> Any:
        return y

    function = jax.custom_vjp(leaning)
    function.defvjp(lambda y: (y, None), lambda _, g: (g * scale,))
    return function(x)


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> Any:
        x = linen.Dense(6)(x)
        return binary(x, self.param("kernel", linen.initializers.normal(0.3), (6, 3)))


class NnxNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(4, 6, rngs=rngs)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (6, 3)) * 0.3)

    def __call__(self, x: jax.Array) -> Any:
        return binary(self.hidden(x), self.kernel[...])


def pair_of(apply: Callable[..., Any]) -> Any:
    def init(key: jax.Array, x: jax.Array) -> Any:
        first, last = jax.random.split(key)
        return {
            "w1": jax.random.normal(first, (4, 6)) * 0.3,
            "w2": jax.random.normal(last, (6, 3)) * 0.3,
        }

    return init, apply


def within(params: Any, x: Any) -> Any:
    return binary(x @ params["w1"], params["w2"])


def before(params: Any, x: Any) -> Any:
    return jnp.sin(binary(x, params["w1"])) @ params["w2"]


def leaning(params: Any, x: Any) -> Any:
    return around(x @ params["w1"]) @ params["w2"]


def load() -> Data:
    rng = np.random.default_rng(0)
    targets = np.arange(64, dtype=np.int32) % 3
    inputs = rng.normal(size=(64, 4)).astype(np.float32) + targets[:, None]
    part = Split(inputs, targets)
    return Data(train=part, validation=part, test=part)


def bench_of(build: Callable[[Any, nnx.Rngs], Any]) -> Workbench:
    return Workbench(classification("own", load=load, build=build, defaults={"unused": 1}))


BUILDS: dict[str, Any] = {
    "pair": lambda config, rngs: pair_of(within),
    "linen": lambda config, rngs: LinenNet(),
    "nnx": lambda config, rngs: NnxNet(rngs),
}


@pytest.mark.parametrize("kind", BUILDS)
def test_layers_before_it_learn_on_the_grid(kind: str) -> None:
    evaluator = AccuracyEvaluator(bench_of(BUILDS[kind]))
    moved = {}
    first = evaluator.train({**STE, "learning_rate": 1e-9}, 0)
    for qat in ("none", "ste"):
        after = evaluator.train({**STE, "qat": qat}, 0)
        moved[qat] = {n: np.asarray(after[n] - first[n]).ravel() for n in first}
    for name, plain in moved["none"].items():
        alike = plain @ moved["ste"][name]
        alike /= np.linalg.norm(plain) * np.linalg.norm(moved["ste"][name])
        assert alike > 0.8, (name, alike)


@pytest.mark.parametrize("kind", BUILDS)
def test_a_step_that_gets_no_gradient_is_refused(kind: str) -> None:
    bench = bench_of(BUILDS[kind])
    named = {"pair": "'w2'", "linen": "'kernel'", "nnx": "'kernel'"}[kind]
    with pytest.raises(UsageError, match=rf"learns the step of .* of {named}.*qat: ste"):
        bench.check_training(LSQ)
    bench.check_training(STE)
    bench.check_training({**QAT, "qat": "lsq"})  # the weight's step gets one


def test_features_within_are_refused() -> None:
    with pytest.raises(UsageError, match=r"feature_weight matches what enters .* of 'w2'"):
        bench_of(BUILDS["pair"]).check_training(MATCHED)
    bench_of(lambda config, rngs: pair_of(before)).check_training(MATCHED)


@pytest.mark.parametrize(
    ("candidate", "match"),
    [(STE, r"qat: ste runs .*'leaning'.*qat: none"), (MATCHED, r"feature_weight runs .*'leaning'")],
)
def test_a_rule_that_cannot_be_followed_is_refused(candidate: Any, match: str) -> None:
    bench = bench_of(lambda config, rngs: pair_of(leaning))
    with pytest.raises(UsageError, match=match):
        bench.check_training(candidate)
    bench.check_training({**STE, "qat": "none"})
