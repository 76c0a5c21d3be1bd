"""Models of every kind in one pure form, which computes what the model itself does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from paretax.errors import UsageError
from paretax.tasks import Arrays, Data, Model, Split, build_model, classification

if TYPE_CHECKING:
    from tests.conftest import Net

EXAMPLE = jax.ShapeDtypeStruct((1, 4), jnp.float32)
X = jnp.asarray(np.random.default_rng(7).normal(size=(5, 4)), jnp.float32)
KEY = jax.random.key(3)


def no_data() -> Data:
    part = Split(np.zeros((2, 4), np.float32), np.arange(2))
    return Data(train=part, validation=part, test=part)


def pure(build: Any, config: dict[str, Any] | None = None) -> Model:
    task = classification("mine", load=no_data, build=build, defaults={})
    return build_model(task, config or {}, EXAMPLE)


def same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(bool((one[n] == other[n]).all()) for n in one)


# A model of each kind -----------------------------------------------------------------------------


class SmallNnx(nnx.Module):
    """Batch statistics, dropout and a layer."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(self.dropout(self.norm(x)))


class SmallLinen(linen.Module):
    """The same in flax.linen."""

    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = linen.BatchNorm(use_running_average=not train, name="norm")(x)
        x = linen.Dropout(0.5, deterministic=not train)(x)
        y: jax.Array = linen.Dense(3, name="out")(x)
        return y


def pair_init(key: jax.Array, x: jax.Array) -> dict[str, Any]:
    return {"out": {"kernel": jax.random.normal(key, (x.shape[1], 3)), "bias": jnp.zeros(3)}}


def pair_apply(params: dict[str, Any], x: jax.Array) -> jax.Array:
    y: jax.Array = jnp.dot(x, params["out"]["kernel"]) + params["out"]["bias"]
    return y


@dataclass(frozen=True, kw_only=True)
class Case:
    """A compiled model, its arrays, and the names of its running mean and variance."""

    init: Any
    apply: Any
    predict: Any
    params: Arrays
    state: Arrays
    statistics: tuple[str, ...]


BUILDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "nnx": (lambda config, rngs: SmallNnx(rngs), ("norm/mean", "norm/var")),
    "linen": (lambda config: SmallLinen(), ("batch_stats/norm/mean", "batch_stats/norm/var")),
    "pair": (lambda config: (pair_init, pair_apply), ()),
}


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    found = {}
    for kind, (build, statistics) in BUILDS.items():
        model = pure(build)
        init = jax.jit(model.init)
        params, state = init(jax.random.key(0))
        state = {n: a + 0.5 for n, a in state.items()}
        found[kind] = Case(
            init=init,
            apply=jax.jit(model.apply),
            predict=jax.jit(model.predict),
            params=params,
            state=state,
            statistics=statistics,
        )
    return found


@pytest.mark.parametrize("kind", BUILDS)
def test_initial_arrays_follow_the_key(cases: dict[str, Case], kind: str) -> None:
    case = cases[kind]
    params, state = case.init(jax.random.key(0))
    others, _ = case.init(jax.random.key(1))
    assert same(params, case.params)
    assert same(state, case.init(jax.random.key(0))[1])
    assert set(state) == set(case.statistics)
    assert not (params["out/kernel"] == others["out/kernel"]).any()


@pytest.mark.parametrize("kind", BUILDS)
def test_the_functions_can_be_traced_and_differentiated(cases: dict[str, Case], kind: str) -> None:
    case = cases[kind]

    def loss(params: Arrays) -> jax.Array:
        outputs, _ = case.apply(params, case.state, X, KEY)
        return jnp.sum(outputs**2)

    gradient = jax.jit(jax.grad(loss))(case.params)
    assert gradient.keys() == case.params.keys()
    assert all(np.isfinite(part).all() and (part != 0).any() for part in gradient.values())


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_dropout_acts_in_training_only(cases: dict[str, Case], kind: str) -> None:
    case = cases[kind]
    args = (case.params, case.state, X)
    one, state_one = case.apply(*args, jax.random.key(0))
    again, state_again = case.apply(*args, jax.random.key(0))
    other, _ = case.apply(*args, jax.random.key(1))
    np.testing.assert_array_equal(one, again)
    assert same(state_one, state_again)
    assert not np.allclose(one, other)
    mean, var = (case.state[n] for n in case.statistics)
    normed = (X - mean) / jnp.sqrt(var + 1e-5) * case.params["norm/scale"]
    expected = (normed + case.params["norm/bias"]) @ case.params["out/kernel"]
    expected += case.params["out/bias"]
    np.testing.assert_allclose(case.predict(*args), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_batch_statistics_move_in_training_and_are_used_in_inference(
    cases: dict[str, Case], kind: str
) -> None:
    case = cases[kind]
    mean, var = case.statistics
    _, state = case.apply(case.params, case.state, X, KEY)
    assert {n: (a.shape, a.dtype) for n, a in state.items()} == {
        n: (a.shape, a.dtype) for n, a in case.state.items()
    }
    expected = 0.99 * case.state[mean] + 0.01 * np.asarray(X).mean(axis=0)
    np.testing.assert_allclose(state[mean], expected, rtol=1e-5, atol=1e-6)
    expected = 0.99 * case.state[var] + 0.01 * np.asarray(X).var(axis=0)
    np.testing.assert_allclose(state[var], expected, rtol=1e-5)

    with_old = case.predict(case.params, case.state, X)
    assert not np.allclose(with_old, case.predict(case.params, state, X))
    alone = case.predict(case.params, case.state, X[:1])  # no statistics of the batch
    np.testing.assert_allclose(alone, with_old[:1], rtol=1e-5, atol=1e-6)


def test_a_pair_computes_what_its_functions_do(cases: dict[str, Case]) -> None:
    case = cases["pair"]
    expected = X @ case.params["out/kernel"] + case.params["out/bias"]
    outputs, state = case.apply(case.params, {}, X, KEY)
    np.testing.assert_allclose(outputs, expected, rtol=1e-6)
    np.testing.assert_array_equal(case.predict(case.params, {}, X), outputs)
    assert state == {}
    assert set(case.params) == {"out/kernel", "out/bias"}


def test_a_larger_model_of_each_kind_trains(net: Net) -> None:
    """Shapes alone: convolution, attention and residuals beside the parts above."""
    outputs, state = jax.eval_shape(net.model.apply, net.params, net.state, net.inputs, KEY)
    assert outputs.shape == (5, 3)
    assert {n: a.shape for n, a in state.items()} == {n: a.shape for n, a in net.state.items()}


# More than ten layers -----------------------------------------------------------------------------


def matrix(seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(4, 4)), jnp.float32)


class DeepNnx(nnx.Module):
    """Twelve layers that do not commute; by name, the eleventh comes before the third."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List(
            [nnx.Linear(4, 4, kernel_init=lambda *_, i=i: matrix(i), rngs=rngs) for i in range(12)]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


class DeepLinen(linen.Module):
    """The same in flax.linen."""

    def setup(self) -> None:
        self.layers = [linen.Dense(4, kernel_init=lambda *_, i=i: matrix(i)) for i in range(12)]

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = jnp.tanh(layer(x))
        return x


def deep_output() -> jax.Array:
    x = X
    for i in range(12):
        x = jnp.tanh(x @ matrix(i))
    return x


def test_a_list_of_nnx_layers_keeps_its_order() -> None:
    model = pure(lambda config, rngs: DeepNnx(rngs))
    params, state = jax.jit(model.init)(KEY)
    assert set(params) == {f"layers/{i}/{p}" for i in range(12) for p in ("kernel", "bias")}
    assert state == {}
    for i in range(12):
        np.testing.assert_array_equal(params[f"layers/{i}/kernel"], matrix(i))
    found = jax.jit(model.predict)(params, state, X)
    np.testing.assert_allclose(found, nnx.jit(DeepNnx(nnx.Rngs(0)))(X), rtol=1e-6)
    np.testing.assert_allclose(found, deep_output(), rtol=1e-5, atol=1e-6)


def test_a_list_of_linen_layers_keeps_its_order() -> None:
    model = pure(lambda config: DeepLinen())
    params, state = jax.jit(model.init)(KEY)
    assert set(params) == {f"layers_{i}/{p}" for i in range(12) for p in ("kernel", "bias")}
    found = jax.jit(model.predict)(params, state, X)
    np.testing.assert_allclose(found, deep_output(), rtol=1e-5, atol=1e-6)


def test_a_pair_with_a_list_keeps_its_order() -> None:
    def init(key: jax.Array, x: jax.Array) -> list[jax.Array]:
        return [jnp.full((), float(i)) for i in range(12)]

    def apply(params: list[jax.Array], x: jax.Array) -> jax.Array:
        return jnp.stack(params)

    model = pure(lambda config: (init, apply))
    params, state = model.init(KEY)
    assert float(params["10"]) == 10
    np.testing.assert_array_equal(model.predict(params, state, X), np.arange(12))


# Kinds of build -----------------------------------------------------------------------------------


class Switched(linen.Module):
    """Dropout behind an argument; subclasses name it."""

    def go(self, x: jax.Array, train: bool) -> jax.Array:
        gain = self.param("gain", linen.initializers.ones, ())
        dropped: jax.Array = linen.Dropout(0.5, deterministic=not train)(x)
        return gain * dropped


class Train(Switched):
    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return self.go(x, train)


class Training(Switched):
    @linen.compact
    def __call__(self, x: jax.Array, *, training: bool = False) -> jax.Array:
        return self.go(x, training)


class IsTraining(Switched):
    @linen.compact
    def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
        return self.go(x, is_training)


class Deterministic(Switched):
    @linen.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        return self.go(x, not deterministic)


class RunningAverage(Switched):
    @linen.compact
    def __call__(self, x: jax.Array, use_running_average: bool) -> jax.Array:
        return self.go(x, not use_running_average)


@pytest.mark.parametrize(
    "module", [Train, Training, IsTraining, Deterministic, RunningAverage], ids=lambda m: m.__name__
)
def test_linen_arguments_that_mean_training(module: type[linen.Module]) -> None:
    model = pure(lambda config: module())
    params, state = model.init(KEY)
    assert bool((model.predict(params, state, X) == X).all())
    outputs, _ = model.apply(params, state, X, KEY)
    assert set(np.unique(np.asarray(outputs / X).round(3))) == {0.0, 2.0}


def test_build_reads_its_config_with_one_argument_or_two() -> None:
    def two(config: Any, rngs: nnx.Rngs) -> nnx.Linear:
        return nnx.Linear(4, config["width"], rngs=rngs)

    def one(config: Any) -> nnx.Linear:
        return nnx.Linear(4, config["width"], rngs=nnx.Rngs(0))

    for build in (two, one):
        model = pure(build, {"width": 7})
        params, state = model.init(KEY)
        assert params["kernel"].shape == (4, 7)
        assert model.predict(params, state, X).shape == (5, 7)
    own = [pure(one, {"width": 7}).init(jax.random.key(i))[0]["kernel"] for i in range(2)]
    np.testing.assert_array_equal(own[0], own[1])  # its weights are its own affair


def test_building_computes_nothing() -> None:
    def init(key: jax.Array, x: jax.Array) -> jax.Array:
        assert isinstance(key, jax.core.Tracer)
        return jnp.zeros((4, 2))

    pure(lambda config: (init, lambda params, x: x @ params))


def test_modules_inside_modules_have_the_paths_of_their_attributes() -> None:
    class Outer(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.value = nnx.Linear(4, 4, rngs=rngs)  # a name that nnx uses itself
            self.blocks = nnx.List([nnx.Dict(key=nnx.Linear(4, 4, rngs=rngs))])

        def __call__(self, x: jax.Array) -> jax.Array:
            y: jax.Array = self.blocks[0]["key"](self.value(x))
            return y

    params, _ = pure(lambda config, rngs: Outer(rngs)).init(KEY)
    assert set(params) == {
        "value/kernel",
        "value/bias",
        "blocks/0/key/kernel",
        "blocks/0/key/bias",
    }


@pytest.mark.parametrize(
    ("built", "kind"),
    [
        (None, "NoneType"),
        ({"w": 1}, "dict"),
        ((1, 2), "tuple"),
        ((len, len, len), "tuple"),
        (len, "b"),
    ],
)
def test_what_is_no_model(built: Any, kind: str) -> None:
    with pytest.raises(UsageError, match=f"build of task 'mine' must return a .*, got {kind}"):
        pure(lambda config: built)
