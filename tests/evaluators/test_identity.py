"""Models that differ in one hidden thing each share no key, and each is trained with its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import linear_call
from jax.experimental import io_callback

from paretax.evaluators import AccuracyEvaluator, Workbench
from paretax.evaluators.graph import describe, graph_key
from paretax.results.teaching import Teacher, lesson_key
from paretax.tasks import Data, Split, SupervisedTask, classification

Layer = Callable[[jax.Array], Any]
"""Of the hidden values, (batch, 6), to as many."""

TABLES = np.random.default_rng(1).uniform(0.5, 1.5, (3, 6)).astype(np.float32)


def table(value: float) -> Any:
    """An array that a number chooses."""
    return TABLES[int(value * 4) % 3]


def own(forward: Any, fwd: Any, bwd: Any, **settings: Any) -> Layer:
    """A function with a backward pass of its own."""
    function = jax.custom_vjp(forward, **settings)
    function.defvjp(fwd, bwd)
    return function


# What only a derivative shows ---------------------------------------------------------------------


def backward(value: float) -> Layer:
    return own(lambda x: x, lambda x: (x, None), lambda _, g: (g * value,))


def backward_array(value: float) -> Layer:
    return own(lambda x: x, lambda x: (x, None), lambda _, g: (g * table(value),))


def residual(value: float) -> Layer:
    return own(jnp.sin, lambda x: (jnp.sin(x), x * value), lambda kept, g: (g * kept,))


def forward(value: float) -> Layer:
    def rounded(x: jax.Array) -> jax.Array:
        return jnp.round(x / value) * value

    return own(rounded, lambda x: (rounded(x), None), lambda _, g: (g,))


def not_differentiated(value: float) -> Layer:
    function: Any = own(
        lambda _, x: x, lambda _, x: (x, None), lambda by, _, g: (g * by,), nondiff_argnums=(0,)
    )
    return partial(function, value)


def forward_mode(value: float) -> Layer:
    @jax.custom_jvp
    def function(x: jax.Array) -> jax.Array:
        return jnp.tanh(x)

    function.defjvp(lambda given, moved: (function(*given), moved[0] * value))
    return function


def forward_modes(value: float) -> Layer:
    function = jax.custom_jvp(jnp.tanh)
    function.defjvps(lambda moved, _, x: moved * value * x)
    return function


def gradient(value: float) -> Any:
    return jax.custom_gradient(lambda x: (jnp.tanh(x), lambda g: g * value))


def transposed(value: float) -> Layer:
    return lambda x: linear_call(lambda _, y: y * 2.0, lambda _, y: y * value, (), x)


def asking(value: float) -> Layer:
    """A rule that is told what is differentiated."""
    function = jax.custom_vjp(lambda x: x)

    def fwd(x: Any) -> tuple[jax.Array, bool]:
        return x.value, x.perturbed

    function.defvjp(fwd, lambda moved, g: (g * value if moved else g * 0.5,), symbolic_zeros=True)
    return function


def closed_over(value: float) -> Layer:
    """A rule that uses what is computed around it, without being given it."""

    def run(x: jax.Array) -> jax.Array:
        scale = jax.lax.stop_gradient(jnp.mean(x))
        function = own(lambda y: y, lambda y: (y, scale), lambda kept, g: (g * value + 0 * kept,))
        found: jax.Array = function(x)
        return found

    return run


def within_a_scan(value: float) -> Layer:
    inner = backward(value)
    return lambda x: jax.lax.scan(lambda carry, _: (inner(carry), None), x, None, length=2)[0]


def within_a_branch(value: float) -> Layer:
    inner = jax.jit(backward(value))
    return lambda x: jax.lax.cond(x[0, 0] > -9.0, inner, lambda y: y, x)


def mapped(value: float) -> Layer:
    return jax.vmap(backward(value))


def remembered(value: float) -> Layer:
    return jax.checkpoint(backward(value))


# Arrays -------------------------------------------------------------------------------------------


def held_in_a_call(value: float) -> Layer:
    held = jnp.asarray(table(value))
    return lambda x: jax.jit(lambda y: y * held)(x)


def held_in_a_loop(value: float) -> Layer:
    held = jnp.asarray(table(value))
    return lambda x: jax.lax.fori_loop(0, 2, lambda _, y: jax.jit(lambda z: z * held)(y), x)


def held_in_a_scan(value: float) -> Layer:
    held = jnp.asarray(table(value))
    return lambda x: jax.lax.scan(lambda carry, _: (carry * held, None), x, None, length=2)[0]


def held_in_a_branch(value: float) -> Layer:
    held = jnp.asarray(table(value))
    return lambda x: jax.lax.cond(x[0, 0] > -9.0, lambda y: y * held, lambda y: y, x)


def held_in_a_checkpoint(value: float) -> Layer:
    held = jnp.asarray(table(value))
    return jax.checkpoint(lambda x: x * held)


def large(value: float) -> Layer:
    """Printed, it is cut short."""
    held = np.ones(6000, np.float32)
    held[3000:3006] = table(value)
    return lambda x: x * jnp.asarray(held)[3000:3006]


def nearly_equal(value: float) -> Layer:
    """Printed, it is rounded."""
    held = np.full(6, 1.0, np.float32) + np.float32(1e-6 * int(4 * value))
    return lambda x: x * jnp.asarray(held)


def scalar_array(value: float) -> Layer:
    held = jnp.asarray(np.float32(value))
    return lambda x: x * held


def key(value: float) -> Layer:
    held = jax.random.key(int(4 * value))
    return lambda x: x * jax.random.uniform(held, (6,))


def filled(value: float) -> Layer:
    """The number is a parameter of an operation."""
    places = np.array([0, 1, 2, 3, 4, 9])
    return lambda x: jnp.take(x, places, axis=1, mode="fill", fill_value=value)


# Python, dtypes and settings ----------------------------------------------------------------------


def branch(value: float) -> Layer:
    return jnp.tanh if value > 0.5 else jnp.sin


def whole(value: float) -> Layer:
    return lambda x: x * int(4 * value)


def batch_size(value: float) -> Layer:
    """In training alone."""
    return lambda x: x * (value if x.shape[0] > 2 else 1.0)


def dtype(value: float) -> Layer:
    narrow = jnp.bfloat16 if value > 0.5 else jnp.float16
    return lambda x: x.astype(narrow).astype(jnp.float32)


def narrow_number(value: float) -> Layer:
    return lambda x: (x.astype(jnp.bfloat16) * jnp.bfloat16(value)).astype(jnp.float32)


def precision(value: float) -> Layer:
    def run(x: jax.Array) -> Any:
        with jax.default_matmul_precision("highest" if value > 0.5 else "default"):
            return x @ jnp.eye(6)

    return run


# What cannot be seen ------------------------------------------------------------------------------


def callback(value: float) -> Layer:
    def called(x: Any) -> Any:
        return np.asarray(x) * np.float32(value)

    def run(x: jax.Array) -> Any:
        still = jax.lax.stop_gradient(x)
        return x + jax.pure_callback(called, still, still, vmap_method="expand_dims")

    return run


def effect(value: float) -> Layer:
    def called(x: Any) -> Any:
        return np.asarray(x) * np.float32(value)

    def run(x: jax.Array) -> jax.Array:
        still = jax.lax.stop_gradient(x)
        found: jax.Array = x + io_callback(called, still, still)
        return found

    return run


def told(value: float) -> Layer:
    seen: list[Any] = []

    def run(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda x: seen.append(value * x), x)
        return x

    return run


def batched(value: float) -> Layer:
    """Its rule for a population stands in no text."""
    function = custom_vmap(lambda x: x)
    function.def_vmap(lambda _, moved, x: (x * value, moved[0]))
    return lambda x: x + function(jax.lax.stop_gradient(x))


SEEN: Mapping[str, Callable[[float], Layer]] = {
    made.__name__: made
    for made in (
        *(backward, backward_array, residual, forward, not_differentiated, forward_mode),
        *(forward_modes, gradient, transposed, within_a_scan, within_a_branch, mapped, remembered),
        *(held_in_a_call, held_in_a_loop, held_in_a_scan, held_in_a_branch, held_in_a_checkpoint),
        *(large, nearly_equal, scalar_array, key, filled, branch, whole, dtype),
        *(narrow_number,),
        precision,
    )
}
HIDDEN: Mapping[str, Callable[[float], Layer]] = {
    made.__name__: made for made in (asking, closed_over, callback, effect, told, batched)
}
ALL = {**SEEN, **HIDDEN}
VALUES = (0.3, 0.8)


def load() -> Data:
    rng = np.random.default_rng(0)
    targets = np.arange(96, dtype=np.int32) % 3
    inputs = rng.normal(size=(96, 4)).astype(np.float32) + targets[:, None]
    return Data(
        train=Split(inputs[:64], targets[:64]),
        validation=Split(inputs[64:80], targets[64:80]),
        test=Split(inputs[80:], targets[80:]),
    )


def as_pair(layer: Layer, rngs: Any) -> Any:
    def init(key: jax.Array, x: jax.Array) -> Any:
        first, last = jax.random.split(key)
        return {"w1": jax.random.normal(first, (4, 6)), "w2": jax.random.normal(last, (6, 3))}

    return init, lambda params, x: layer(x @ params["w1"]) @ params["w2"]


def as_nnx(layer: Layer, rngs: nnx.Rngs) -> Any:
    return nnx.Sequential(nnx.Linear(4, 6, rngs=rngs), layer, nnx.Linear(6, 3, rngs=rngs))


def as_linen(layer: Layer, rngs: Any) -> Any:
    return linen.Sequential([linen.Dense(6), layer, linen.Dense(3)])


KINDS = {"pair": as_pair, "nnx": as_nnx, "linen": as_linen}


def task_of(
    make: Callable[[float], Layer], kind: str, fixed: float | None = None
) -> SupervisedTask:
    """A task whose one number makes the layer; a fixed one stays out of the configuration."""

    def build(config: Any, rngs: nnx.Rngs) -> Any:
        return KINDS[kind](make(config["value"] if fixed is None else fixed), rngs)

    return classification("hidden", load=load, build=build, defaults={"value": 0.5})


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", KINDS)
def test_no_two_share_a_key(name: str, kind: str) -> None:
    bench = Workbench(task_of(ALL[name], kind))
    one, other = (bench.prepared({"value": value}).key for value in VALUES)
    assert one != other
    assert bench.prepared({"value": VALUES[0]}).key == one


@pytest.mark.parametrize("name", ALL)
def test_a_teacher_of_another_program_has_another_key(name: str) -> None:
    """Also where the candidate is the same, as of one task before and after a change of code."""
    found = []
    for value in VALUES:
        bench = Workbench(task_of(ALL[name], "pair", fixed=value))
        found.append(lesson_key(bench, Teacher(candidate={"learning_rate": 0.01})))
    (one, seen), (other, _) = found
    assert seen is (name in SEEN)
    assert not seen or one != other


@pytest.mark.parametrize("name", ALL)
def test_graphs_have_different_keys(name: str) -> None:
    def graph(value: float) -> Any:
        return jax.make_jaxpr(ALL[name](value))(jax.ShapeDtypeStruct((5, 6), jnp.float32))

    one, other = (graph_key(graph(value)) for value in VALUES)
    if name in HIDDEN:
        assert one is other is None
        assert describe(graph(VALUES[0])).unseen
    else:
        assert one != other
        assert graph_key(graph(VALUES[0])) == one


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_the_models_own(name: str) -> None:
    """Through everything that is taken out of it, and after another model of the same bench."""
    bench = Workbench(task_of(ALL[name], "pair"))
    inputs = jnp.asarray(bench.data.train.inputs[:5])
    for value in VALUES:
        prepared = bench.prepared({"value": value})
        params, state = prepared.init(jax.random.key(1), prepared.numbers)
        noise = (jax.random.key(2), prepared.numbers)

        def loss(params: Any, run: Any) -> jax.Array:
            return jnp.sin(run(params)).sum()

        made = partial(prepared.apply, state=state, inputs=inputs, noise=noise)
        plain = partial(as_pair(ALL[name](value), None)[1], x=inputs)
        found = jax.grad(loss)(params, lambda params, made=made: made(params)[0])
        wanted = jax.grad(loss)(params, plain)
        for weight in ("w1", "w2"):
            np.testing.assert_allclose(found[weight], wanted[weight], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["backward", "forward", "held_in_a_call"])
def test_each_is_trained_with_its_own(name: str) -> None:
    """After another one of the same workbench as alone."""
    task = task_of(ALL[name], "pair")
    shared, alone = AccuracyEvaluator(Workbench(task)), AccuracyEvaluator(Workbench(task))
    chosen = {"epochs": 1, "batch_size": 32, "optimizer": "sgd", "learning_rate": 0.1}
    before = shared.train({**chosen, "value": VALUES[0]}, 0)
    after = shared.train({**chosen, "value": VALUES[1]}, 0)
    fresh = alone.train({**chosen, "value": VALUES[1]}, 0)
    assert not np.array_equal(before["w1"], after["w1"])
    for weight in ("w1", "w2"):
        np.testing.assert_array_equal(after[weight], fresh[weight])


def test_a_layer_may_use_an_array_from_around_it() -> None:
    """In each kind of model; it is made where the module is built."""
    for kind, build in KINDS.items():
        bench = Workbench(task_of(held_in_a_call, kind))
        prepared = bench.prepared({"value": VALUES[0]})
        params, state = prepared.init(jax.random.key(1), prepared.numbers)
        noise = (jax.random.key(2), prepared.numbers)
        outputs, _ = jax.jit(prepared.apply)(params, state, jnp.ones((2, 4)), noise)
        assert np.isfinite(outputs).all(), build


def test_a_number_counts_that_only_batches_of_training_read() -> None:
    """Models are looked at with a batch of two, and trained with others."""
    for layer in (batch_size, lambda value: lambda x: x if x.shape[0] == 2 else x * value):
        bench = Workbench(task_of(layer, "pair"))
        for value in VALUES:
            prepared = bench.prepared({"value": value, "batch_size": 5})
            params, state = prepared.init(jax.random.key(1), prepared.numbers)
            noise = (jax.random.key(2), prepared.numbers)
            inputs = jnp.asarray(bench.data.train.inputs[:5])
            outputs, _ = prepared.apply(params, state, inputs, noise)
            plain = as_pair(layer(value), None)[1](params, inputs)
            np.testing.assert_allclose(outputs, plain, rtol=1e-6)
            assert len(prepared.numbers["apply"]) == 1


def test_loose_types_count() -> None:
    def of(weak: bool) -> str:
        given = jax.ShapeDtypeStruct((2, 6), jnp.float32, weak_type=weak)
        return describe(jax.make_jaxpr(lambda x: x)(given)).words

    assert of(True) != of(False)
