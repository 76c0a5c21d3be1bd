"""Sites are found in models of every kind, and their products can be replaced."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.spaces.sites import Product, Site, find_sites, replace_products

if TYPE_CHECKING:
    from tests.conftest import Net

ATTENTION = [
    Site(weight="attention/query/kernel", kind="dot", shape=(4, 2, 2), axes=(0,)),
    Site(weight="attention/key/kernel", kind="dot", shape=(4, 2, 2), axes=(0,)),
    Site(weight="attention/value/kernel", kind="dot", shape=(4, 2, 2), axes=(0,)),
    Site(weight="attention/out/kernel", kind="dot", shape=(2, 2, 4), axes=(0, 1)),
]
FLAX = [
    Site(weight="conv/kernel", kind="convolution", shape=(3, 3, 1, 4), axes=(0, 1, 2)),
    *ATTENTION,
    Site(weight="out/kernel", kind="dot", shape=(4, 3), axes=(0,)),
]
PAIR = [
    Site(weight="first/w", kind="dot", shape=(16, 6), axes=(0,)),
    Site(weight="out", kind="dot", shape=(6, 3), axes=(0,)),
]
EXPECTED = {"nnx": FLAX, "linen": FLAX, "pair": PAIR}


def normal(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def plainly(product: Product, x: jax.Array, weight: jax.Array) -> jax.Array:
    return product.run(x, weight.astype(x.dtype), product.dtype)


def scaled(product: Product, x: jax.Array, weight: jax.Array) -> jax.Array:
    """The product by a weight of half the size, doubled channel by channel."""
    shape = [1 if i in product.site.axes else n for i, n in enumerate(product.site.shape)]
    factors = 1.0 + jnp.arange(product.site.channels, dtype=jnp.float32).reshape(shape)
    y = product.run(x, weight / factors, product.dtype)
    return y * product.spread(factors)


# Models of every kind -----------------------------------------------------------------------------


def test_the_weights_of_a_model_are_found_in_order(net: Net) -> None:
    sites = find_sites(net.model.predict, net.params, net.state, net.inputs)
    assert list(sites.values()) == EXPECTED[net.kind]
    assert list(sites) == [s.weight for s in EXPECTED[net.kind]]


def test_shapes_are_enough_to_find_them(net: Net) -> None:
    shapes = jax.eval_shape(lambda: (net.params, net.state, net.inputs))
    assert list(find_sites(net.model.predict, *shapes).values()) == EXPECTED[net.kind]


def test_sizes_and_channels() -> None:
    conv, query, _, _, out, _ = FLAX
    assert [s.size for s in (conv, query, out)] == [36, 16, 16]
    assert [s.channels for s in (conv, query, out)] == [4, 4, 4]


def test_plain_products_reproduce_the_model_exactly(net: Net) -> None:
    predict, args = net.model.predict, (net.params, net.state, net.inputs)
    sites = find_sites(predict, *args)
    seen: list[str] = []

    def handler(product: Product, x: jax.Array, weight: jax.Array) -> jax.Array:
        seen.append(product.site.weight)
        return plainly(product, x, weight)

    found = jax.jit(replace_products(predict, sites, handler))(*args)
    np.testing.assert_array_equal(found, jax.jit(predict)(*args))
    assert seen == [s.weight for s in EXPECTED[net.kind]]


def test_scales_are_spread_over_the_right_channels(net: Net) -> None:
    predict, args = net.model.predict, (net.params, net.state, net.inputs)
    sites = find_sites(predict, *args)
    found = jax.jit(replace_products(predict, sites, scaled))(*args)
    np.testing.assert_allclose(found, jax.jit(predict)(*args), rtol=1e-5, atol=1e-5)


def test_what_is_passed_under_the_name_reaches_the_handler(pair_net: Net) -> None:
    net = pair_net
    sites = find_sites(net.model.predict, net.params, net.state, net.inputs)
    params = net.params | {"out": jnp.ones((6, 3), jnp.int8)}
    dtypes = {}

    def handler(product: Product, x: jax.Array, weight: jax.Array) -> jax.Array:
        dtypes[product.site.weight] = weight.dtype
        return plainly(product, x, weight)

    found = replace_products(net.model.predict, sites, handler)(params, net.state, net.inputs)
    ones = net.params | {"out": jnp.ones((6, 3))}
    np.testing.assert_allclose(found, net.model.predict(ones, net.state, net.inputs), rtol=1e-6)
    assert dtypes == {"first/w": jnp.float32, "out": jnp.int8}


def test_a_symbolic_batch_size(pair_net: Net) -> None:
    net = pair_net
    predict = net.model.predict
    sites = find_sites(predict, net.params, net.state, net.inputs)
    run = jax.jit(replace_products(predict, sites, scaled))
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = jax.eval_shape(lambda: (net.params, net.state))
    inputs = jax.ShapeDtypeStruct((batch, 4, 4, 1), jnp.float32)
    exported = jax.export.export(run)(*shapes, inputs)
    for count in (1, 3):
        found = exported.call(net.params, net.state, net.inputs[:count])
        expected = jax.jit(predict)(net.params, net.state, net.inputs[:count])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_computation_in_a_lower_precision(bfloat16_net: Net) -> None:
    """The weights are sites although the model casts them first."""
    net = bfloat16_net
    args = (net.params, net.state, net.inputs)
    sites = find_sites(net.model.predict, *args)
    assert list(sites) == ["conv/kernel", "out/kernel"]
    found = jax.jit(replace_products(net.model.predict, sites, plainly))(*args)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, jax.jit(net.model.predict)(*args))


# Functions one at a time --------------------------------------------------------------------------

PARAMS = {
    "u": normal(0, (4, 4)),
    "w": normal(1, (4, 4)),
}
X = normal(2, (3, 4))

Function = Callable[[Any, Any], Any]


@jax.custom_jvp
def custom_forward(x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.sin(x @ w)


@custom_forward.defjvp
def _custom_forward(primals: Any, tangents: Any) -> Any:
    return custom_forward(*primals), tangents[0] @ primals[1]


@jax.custom_vjp
def custom_backward(x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.sin(x @ w)


custom_backward.defvjp(lambda x, w: (x @ w, None), lambda _, g: (g, g))


FOUND: dict[str, Function] = {
    "eager": lambda p, x: jnp.tanh(x @ p["u"]) @ p["w"],
    "jit": lambda p, x: jax.jit(jnp.dot)(jax.jit(lambda a: a @ p["u"])(x), p["w"]),
    "nested jit": lambda p, x: jax.jit(lambda a: jax.jit(jnp.dot)(a, p["w"]) + 1)(x) @ p["u"],
    "checkpoint": lambda p, x: jax.checkpoint(lambda a, b: jnp.sin(a @ b))(x, p["u"]) @ p["w"],
    "custom_jvp": lambda p, x: custom_forward(x, p["u"]) @ p["w"],
    "custom_vjp": lambda p, x: custom_backward(x, p["u"]) @ p["w"],
    "the weight on the left": lambda p, x: p["u"] @ (x @ p["w"]).T,
    "a transposed contraction": lambda p, x: jnp.einsum(
        "bi,oi->bo", jnp.einsum("bi,io->bo", x, p["u"]), p["w"]
    ),
    "used twice in one way": lambda p, x: jnp.sin(x @ p["u"]) @ p["u"] @ p["w"],
    "cast": lambda p, x: (x @ p["u"].astype(jnp.bfloat16).astype(jnp.float32)) @ p["w"],
}


@pytest.mark.parametrize("how", FOUND)
def test_these_are_sites(how: str) -> None:
    function = FOUND[how]
    sites = find_sites(lambda p, s, x: function(p, x), PARAMS, {}, X)
    assert sorted(sites) == ["u", "w"]
    expected = function(PARAMS, X)
    for handler in (plainly, scaled):
        run = replace_products(lambda p, s, x: function(p, x), sites, handler)
        rtol = 0.05 if how == "cast" else 1e-5  # the handler gets the weight before the cast
        np.testing.assert_allclose(run(PARAMS, {}, X), expected, rtol=rtol, atol=rtol)


def test_products_with_a_batch_of_weights() -> None:
    params = {"w": normal(0, (2, 3, 4))}
    x = normal(1, (5, 2, 3))

    def predict(p: Any, s: Any, x: Any) -> Any:
        return jnp.einsum("bhi,hio->bho", x, p["w"])

    sites = find_sites(predict, params, {}, x)
    assert sites == {"w": Site(weight="w", kind="dot", shape=(2, 3, 4), axes=(1,))}
    assert sites["w"].channels == 8
    found = jax.jit(replace_products(predict, sites, scaled))(params, {}, x)
    np.testing.assert_allclose(found, predict(params, {}, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_convolutions(groups: int) -> None:
    params = {"w": normal(0, (3, 4 // groups, 8))}
    x = normal(1, (2, 6, 4))

    def predict(p: Any, s: Any, x: Any) -> Any:
        numbers = ("NHC", "HIO", "NHC")
        return jax.lax.conv_general_dilated(
            x, p["w"], (1,), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    sites = find_sites(predict, params, {}, x)
    assert sites["w"].axes == (0, 1)
    assert sites["w"].channels == 8
    found = jax.jit(replace_products(predict, sites, scaled))(params, {}, x)
    np.testing.assert_allclose(found, jax.jit(predict)(params, {}, x), rtol=1e-5, atol=1e-5)


def scanned(p: Any, x: Any) -> Any:
    return jax.lax.scan(lambda c, row: (c + row @ p["u"], None), jnp.zeros(4), x)[0] @ p["w"]


NOT_FOUND: dict[str, Function] = {
    "tied": lambda p, x: (x @ p["u"]) @ p["u"].T @ p["w"],
    "tied by contraction": lambda p, x: jnp.einsum("bo,io->bi", x @ p["u"], p["u"]) @ p["w"],
    "also added": lambda p, x: (x @ p["u"]) @ p["w"] + p["u"].sum(),
    "also returned": lambda p, x: ((x @ p["u"]) @ p["w"], p["u"]),
    "looked up": lambda p, x: p["u"][jnp.arange(3)] @ p["w"],
    "changed first": lambda p, x: x @ (2 * p["u"]) @ p["w"],
    "rounded first": lambda p, x: x @ p["u"].astype(jnp.int32).astype(jnp.float32) @ p["w"],
    "cast and added": lambda p, x: x @ p["u"] @ p["w"] + p["u"].astype(jnp.float16)[0],
    "scanned": scanned,
    "branched on": lambda p, x: (
        jax.lax.cond(x[0, 0] > 0, lambda: x @ p["u"], lambda: 2 * x @ p["u"]) @ p["w"]
    ),
    "squared": lambda p, x: x @ p["w"] + (p["u"] @ p["u"])[0],
    "handed through": lambda p, x: x @ jax.jit(lambda w: w)(p["u"]) @ p["w"],
    "unused": lambda p, x: x @ p["w"],
    "in one jit as a site, in another not": lambda p, x: (
        jax.jit(jnp.dot)(x, p["u"]) @ p["w"] + jax.jit(jnp.sum)(p["u"])
    ),
}


@pytest.mark.parametrize("how", NOT_FOUND)
def test_these_are_none(how: str) -> None:
    """They stay as they are, beside a site that is replaced."""
    function = NOT_FOUND[how]
    sites = find_sites(lambda p, s, x: function(p, x), PARAMS, {}, X)
    assert list(sites) == ["w"]
    run = replace_products(lambda p, s, x: function(p, x), sites, scaled)
    compare = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(compare, run(PARAMS, {}, X), function(PARAMS, X))


def test_a_convolution_by_a_weight_on_the_left_is_none() -> None:
    """A learned image that is convolved: its batch is no channel."""
    params = {"image": jnp.ones((1, 4, 1))}

    def predict(p: Any, s: Any, x: Any) -> Any:
        numbers = ("NHC", "HIO", "NHC")
        return jax.lax.conv_general_dilated(p["image"], x, (1,), "SAME", dimension_numbers=numbers)

    assert find_sites(predict, params, {}, jnp.ones((3, 1, 2))) == {}


def test_a_product_of_two_weights_is_none() -> None:
    def predict(p: Any, s: Any, x: Any) -> Any:
        return x @ (p["u"] @ p["w"])

    assert find_sites(predict, PARAMS, {}, X) == {}


def test_products_of_state_and_inputs_are_none() -> None:
    def predict(p: Any, s: Any, x: Any) -> Any:
        return x @ s["table"] @ p["w"] @ x

    assert list(find_sites(predict, {"w": X.T}, {"table": jnp.ones((4, 4))}, X)) == ["w"]


def test_the_structure_of_the_outputs_is_kept() -> None:
    def predict(p: Any, s: Any, x: Any) -> Any:
        return {"logits": x @ p["w"], "parts": (x, [s["bias"]])}

    params, state = {"w": PARAMS["w"]}, {"bias": jnp.ones(2)}
    sites = find_sites(predict, params, state, X)
    found = replace_products(predict, sites, plainly)(params, state, X)
    expected = predict(params, state, X)
    assert found.keys() == expected.keys()
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_numpy_arrays_do_as_well() -> None:
    def predict(p: Any, s: Any, x: Any) -> Any:
        return x @ p["w"] + p["b"] * s["gain"]

    params = {"w": np.ones((4, 2), np.float32), "b": np.ones(2, np.float32)}
    state = {"gain": np.float32(3)}
    sites = find_sites(predict, params, state, X)
    assert list(sites) == ["w"]
    found = replace_products(predict, sites, plainly)(params, state, X)
    np.testing.assert_allclose(found, predict(params, state, X), rtol=1e-6)
