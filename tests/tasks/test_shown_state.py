"""What a model's call shows, keeps, draws and numbers: state that training can carry on."""

from __future__ import annotations

import warnings
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from paretax.errors import UsageError
from paretax.evaluators import AccuracyEvaluator, Workbench
from paretax.tasks import Model, build_model, classification, split

X = np.random.default_rng(0).normal(size=(400, 4)).astype(np.float32)
LABELS = (X[:, 0] > 0).astype(np.int32)
EXAMPLE = jax.ShapeDtypeStruct((2, 4), jnp.float32)
KEY = jax.random.key(0)


def task(build: Any) -> Any:
    return classification("mine", load=lambda: split(X, LABELS), build=build, defaults={})


def pure(build: Any) -> Model:
    return build_model(task(build), {}, EXAMPLE)


class Sown(nnx.Variable[Any]):
    """A kind of variable of a user's own."""


class NnxSow(nnx.Module):
    """Sows, perturbs, and leaves an array behind, in a call in its constructor as well."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.out = nnx.Linear(4, 2, rngs=rngs)
        self.count = nnx.BatchStat(jnp.zeros((), jnp.int32))
        with warnings.catch_warnings(action="ignore"):
            self(jnp.ones((1, 4)))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.out(x)
        self.sow(nnx.Intermediate, "seen", y)
        self.last = nnx.Intermediate(y)
        self.count[...] += 1
        return y


class NnxOwnSow(nnx.Module):
    """Sows into a kind of its own, and by a name."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.out = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.out(x)
        self.sow(Sown, "seen", y)
        self.sow("losses", "loss", (y**2).mean())
        self.held = y
        return y


class LinenSow(linen.Module):
    """Sows into two collections of its own and perturbs; batch statistics are kept."""

    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = linen.BatchNorm(use_running_average=not train, name="norm")(x)
        self.sow("losses", "size", (x**2).mean())
        self.sow("seen", "x", x)
        self.sow("intermediates", "x", x)
        y: jax.Array = self.perturb("y", linen.Dense(2, name="out")(x))
        return y


class LinenCount(linen.Module):
    """Keeps a number of its own beside what it sows."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        count = self.variable("counts", "calls", lambda: jnp.zeros(()))
        if self.is_mutable_collection("counts") and not self.is_initializing():
            count.value += 1.0
        y: jax.Array = linen.Dense(2, name="out")(x)
        self.sow("losses", "size", (y**2).mean())
        return y


CASES: dict[str, tuple[Any, set[str]]] = {
    "nnx": (lambda config, rngs: NnxSow(rngs), {"count"}),
    "nnx, kinds of its own": (lambda config, rngs: NnxOwnSow(rngs), set()),
    "linen": (lambda config: LinenSow(), {"batch_stats/norm/mean", "batch_stats/norm/var"}),
    "linen, with a count": (lambda config: LinenCount(), {"counts/calls"}),
}


@pytest.mark.parametrize("kind", CASES)
def test_what_is_sown_is_not_carried_on(kind: str) -> None:
    build, expected = CASES[kind]
    model = pure(build)
    assert set(model.state) == expected
    params, state = model.init(KEY)
    assert set(state) == expected
    for _ in range(3):
        _, state = model.apply(params, state, jnp.asarray(X[:5]), KEY)
        assert {n: a.shape for n, a in state.items()} == {
            n: a.shape for n, a in model.state.items()
        }
    for name in {"count", "counts/calls"} & expected:
        assert int(state[name]) == (4 if name == "count" else 3)
    outputs = model.predict(params, state, jnp.asarray(X))
    np.testing.assert_allclose(outputs.shape, (400, 2))


@pytest.mark.parametrize("kind", CASES)
def test_models_that_sow_train(kind: str) -> None:
    bench = Workbench(task(CASES[kind][0]))
    candidate = {"epochs": 20, "batch_size": 16, "learning_rate": 0.05, "quantize": True}
    evaluation = AccuracyEvaluator(bench).evaluate(candidate, 0)
    assert evaluation.failure is None
    assert evaluation.measurements[0].value > 0.9


class Late(nnx.Module):
    """Makes a statistic in its call, that the next one would read."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.out = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        if not hasattr(self, "mean"):
            self.mean = nnx.BatchStat(jnp.zeros(4))
        self.mean[...] = 0.9 * self.mean[...] + 0.1 * x.mean(0)
        return self.out(x - self.mean[...])


class Growing(nnx.Module):
    """Its statistic becomes another shape."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.out = nnx.Linear(4, 2, rngs=rngs)
        self.seen = nnx.BatchStat(jnp.zeros((0, 4)))

    def __call__(self, x: jax.Array) -> jax.Array:
        self.seen.set_value(jnp.concatenate([self.seen[...], x]))
        return self.out(x)


class LinenGrowing(linen.Module):
    """A statistic of the batch's own shape, which the module needs."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        before = self.variable("memory", "x", lambda: x)
        shift = before.value.mean(0)
        before.value = x
        y: jax.Array = linen.Dense(2)(x - shift)
        return y


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda config, rngs: Late(rngs), "makes 'mean', a BatchStat: make it in the constructor"),
        (lambda config, rngs: Growing(rngs), r"'seen' must keep its shape .*\(5, 4\) after"),
        (lambda config: LinenGrowing(), "'memory' of the linen module changes"),
    ],
)
def test_state_that_does_not_keep_its_shape_is_refused(build: Any, message: str) -> None:
    def one_step() -> None:
        model = pure(build)
        params, state = model.init(KEY)
        model.apply(params, state, jnp.asarray(X[:5]), KEY)

    with pytest.raises(UsageError, match=message):
        one_step()


# Streams of random numbers ------------------------------------------------------------------------


class Noise(linen.Module):
    """Draws from streams of its own names."""

    @linen.compact
    def __call__(self, x: jax.Array, is_train: bool) -> jax.Array:
        gain = self.param("gain", linen.initializers.ones, ())
        if is_train:
            x = x + jax.random.normal(self.make_rng("noise"), x.shape)
        dropped: jax.Array = linen.Dropout(
            0.5, rng_collection="drop_path", deterministic=not is_train
        )(gain * x)
        return dropped


class NnxNoise(nnx.Module):
    """The same in flax.nnx."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.gain = nnx.Param(jnp.ones(()))
        self.drop = nnx.Dropout(0.5, rng_collection="drop_path", rngs=rngs)
        self.rngs = rngs.fork()
        self.deterministic = False

    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.deterministic:
            x = x + jax.random.normal(self.rngs.noise(), x.shape)
        return self.drop(self.gain[...] * x)


@pytest.mark.parametrize("build", [lambda config: Noise(), lambda config, rngs: NnxNoise(rngs)])
def test_streams_of_any_name(build: Any) -> None:
    model = pure(build)
    params, state = model.init(KEY)
    one, again, other = (
        model.apply(params, state, jnp.asarray(X), jax.random.key(i))[0] for i in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert ((one == 0) != (other == 0)).any()
    kept = np.asarray(one) != 0
    assert 0.3 < kept.mean() < 0.7
    noise = np.asarray(one)[kept] / 2 - X[kept]
    assert 0.7 < noise.std() < 1.3
    np.testing.assert_array_equal(model.predict(params, state, jnp.asarray(X)), X)


# Whole numbers, names -----------------------------------------------------------------------------


def test_whole_number_parameters_stay_as_they_are() -> None:
    order = np.array([2, 0, 3, 1])

    class Permuted(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.order, self.out = nnx.Param(jnp.asarray(order)), nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.out(x[:, self.order[...]])

    def init(key: jax.Array, x: jax.Array) -> Any:
        return {"order": jnp.asarray(order), "w": jax.random.normal(key, (4, 2))}

    def apply(params: Any, x: jax.Array) -> jax.Array:
        y: jax.Array = x[:, params["order"]] @ params["w"]
        return y

    for build in (lambda config, rngs: Permuted(rngs), lambda config: (init, apply)):
        model = pure(build)
        assert set(model.state) == {"params/order"}
        assert "order" not in model.params
        evaluation = AccuracyEvaluator(Workbench(task(build))).evaluate(
            {"epochs": 20, "batch_size": 16, "learning_rate": 0.05}, 0
        )
        assert evaluation.weights is not None
        np.testing.assert_array_equal(evaluation.weights["params/order"], order)
        assert evaluation.measurements[0].value > 0.9


def test_two_arrays_of_one_name_are_refused() -> None:
    def init(key: jax.Array, x: jax.Array) -> Any:
        return {"a/b": jnp.ones((4, 2)), "a": {"b": jnp.zeros((4, 2))}}

    with pytest.raises(UsageError, match="two are called 'a/b'"):
        pure(lambda config: (init, lambda params, x: x @ params["a/b"] + x @ params["a"]["b"]))
