"""The products at a model's sites can be done otherwise; everything else stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.spaces.products import Handler, Product, replace_products
from paretax.spaces.sites import find_sites

if TYPE_CHECKING:
    from tests.conftest import Net
    from tests.spaces.conftest import Example

Function = Callable[[Any, Any], Any]
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def normal(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def of_inputs(x: jax.Array) -> Any:
    return x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32


def plainly(product: Product, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, None]:
    """As the model does it."""
    dtype = product.dtype if product.site.kind == "embedding" else of_inputs(x)
    return product.run(x, weight.astype(dtype), product.dtype), None


def scaled(product: Product, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, None]:
    """The product by smaller weights, made up for channel by channel."""
    shape = [1 if i in product.site.axes else n for i, n in enumerate(product.site.shape)]
    factors = 1.0 + jnp.arange(product.site.channels, dtype=jnp.float32).reshape(shape)
    y = product.bare(x, weight / factors, product.dtype)
    return (y * product.spread(factors)).astype(product.dtype), None


def counting(product: Product, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As the model does it, with the largest input as a note."""
    return plainly(product, x, weight)[0], jnp.max(jnp.abs(x)).astype(jnp.float32)


def outputs(function: Callable[..., Any], handler: Handler, args: Any) -> Any:
    """What the model gives with its products done by `handler`, compiled."""
    sites = find_sites(function, *args)
    return jax.jit(lambda *given: replace_products(function, sites, handler)(*given)[0])(*args)


# Models of every kind -----------------------------------------------------------------------------


def test_plain_products_reproduce_the_model_exactly(net: Net) -> None:
    predict, args = net.model.predict, (net.params, net.state, net.inputs)
    sites = find_sites(predict, *args)
    seen: list[str] = []

    def handler(product: Product, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, None]:
        seen.append(product.site.weight)
        return plainly(product, x, weight)

    found = jax.jit(lambda *given: replace_products(predict, sites, handler)(*given)[0])(*args)
    np.testing.assert_array_equal(found, jax.jit(predict)(*args))
    assert seen == list(sites)


def test_scales_are_spread_over_the_right_channels(net: Net) -> None:
    predict, args = net.model.predict, (net.params, net.state, net.inputs)
    close(outputs(predict, scaled, args), jax.jit(predict)(*args))


@pytest.mark.parametrize(
    "name",
    [
        *(f"{kind}-nnx" for kind in ("cnn", "separable", "residual", "block", "stack")),
        *(f"{kind}-linen" for kind in ("residual", "tokens", "stack")),
    ],
)
def test_models_of_many_kinds(example: Callable[[str], Example], name: str) -> None:
    """Scans over blocks, look-ups, rematerialised blocks and grouped convolutions among them."""
    model = example(name)
    args = (model.params, model.state, model.inputs)
    expected = jax.jit(model.predict)(*args)
    for handler in (plainly, scaled):
        close(outputs(model.predict, handler, args), expected)


@pytest.mark.parametrize("name", ["residual-nnx", "stack-nnx"])
def test_gradients_go_through(example: Callable[[str], Example], name: str) -> None:
    model = example(name)
    sites = find_sites(model.predict, model.params, model.state, model.inputs)
    replaced = replace_products(model.predict, sites, plainly)

    def loss(run: Callable[..., Any], params: Any) -> jax.Array:
        return jnp.sum(jnp.sin(run(params, model.state, model.inputs)))

    found = jax.jit(jax.grad(lambda p: loss(lambda *a: replaced(*a)[0], p)))(model.params)
    expected = jax.jit(jax.grad(partial(loss, model.predict)))(model.params)
    for weight, gradient in expected.items():
        close(found[weight], gradient, rtol=1e-4, err_msg=weight)
        assert weight.endswith("key/bias") or np.abs(gradient).max() > 0  # softmax ignores that one


def test_what_is_passed_under_the_name_reaches_the_handler(pair_net: Net) -> None:
    net = pair_net
    sites = find_sites(net.model.predict, net.params, net.state, net.inputs)
    params = net.params | {"out": jnp.ones((6, 3), jnp.int8)}
    dtypes = {}

    def handler(product: Product, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, None]:
        dtypes[product.site.weight] = weight.dtype
        return plainly(product, x, weight)

    run = replace_products(net.model.predict, sites, handler)
    found, _ = run(params, net.state, net.inputs)
    ones = net.params | {"out": jnp.ones((6, 3))}
    np.testing.assert_allclose(found, net.model.predict(ones, net.state, net.inputs), rtol=1e-6)
    assert dtypes == {"first/w": jnp.float32, "out": jnp.int8}


@pytest.mark.parametrize("name", ["stack-nnx", "stack-linen"])
def test_operands_are_pytrees_that_scans_slice(
    example: Callable[[str], Example], name: str
) -> None:
    """Each block's weight comes with its own factor; only the products of both are the model's."""
    model = example(name)
    args = (model.params, model.state, model.inputs)
    sites = find_sites(model.predict, *args)
    factors = {n: 2.0 ** jnp.arange(3) if s.stack else jnp.float32(4) for n, s in sites.items()}
    given: dict[str, Any] = dict(model.params)
    for weight, factor in factors.items():
        whole = model.params[weight]
        along = factor.reshape(factor.shape + (1,) * (whole.ndim - factor.ndim))
        given[weight] = {"weight": whole / along, "more": (factor,)}

    def handler(product: Product, x: jax.Array, operand: Any) -> tuple[jax.Array, None]:
        (factor,) = operand["more"]
        assert factor.shape == ()
        assert operand["weight"].shape == product.site.shape
        return plainly(product, x, operand["weight"] * factor)

    run = replace_products(model.predict, sites, handler)
    found = jax.jit(lambda *a: run(*a)[0])(given, model.state, model.inputs)
    close(found, jax.jit(model.predict)(*args))


def test_a_symbolic_batch_size(example: Callable[[str], Example]) -> None:
    for name, count in (("cnn-nnx", 2), ("stack-linen", 3)):
        model = example(name)
        sites = find_sites(model.predict, model.params, model.state, model.inputs)
        replaced = replace_products(model.predict, sites, scaled)
        run = jax.jit(lambda *a, replaced=replaced: replaced(*a)[0])
        (batch,) = jax.export.symbolic_shape("batch")
        shapes = jax.eval_shape(lambda model=model: (model.params, model.state))
        shape = (batch, *model.inputs.shape[1:])
        inputs = jax.ShapeDtypeStruct(shape, model.inputs.dtype)
        exported = jax.export.export(run)(*shapes, inputs)
        for some in (1, count):
            args = (model.params, model.state, model.inputs[:some])
            close(exported.call(*args), jax.jit(model.predict)(*args))


def test_computation_in_a_lower_precision(bfloat16_net: Net) -> None:
    """Whether the model casts the weights, or has them in that precision."""
    net = bfloat16_net
    for dtype in (jnp.float32, jnp.bfloat16):
        params = {n: a.astype(dtype) for n, a in net.params.items()}
        args = (params, net.state, net.inputs)
        found = outputs(net.model.predict, plainly, args)
        assert found.dtype == jnp.bfloat16
        np.testing.assert_array_equal(found, jax.jit(net.model.predict)(*args))


def test_a_scan_over_weights_of_a_lower_precision() -> None:
    """What it carries stays in that precision."""
    params = {"w": normal(0, (3, 4, 4)).astype(jnp.bfloat16)}
    x = normal(1, (5, 4)).astype(jnp.bfloat16)

    def predict(p: Any, s: Any, x: Any) -> Any:
        return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, p["w"])[0]

    found = outputs(predict, plainly, (params, {}, x))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, jax.jit(predict)(params, {}, x))


# Notes --------------------------------------------------------------------------------------------


def test_notes_of_stacked_sites_have_the_leading_axis(example: Callable[[str], Example]) -> None:
    model = example("stack-linen")
    args = (model.params, model.state, model.inputs)
    sites = find_sites(model.predict, *args)
    found, notes = jax.jit(replace_products(model.predict, sites, counting))(*args)
    close(found, jax.jit(model.predict)(*args))
    shapes = {n: (3,) if n.startswith("blocks") else () for n in sites}
    assert {n: note.shape for n, note in notes.items()} == shapes
    assert float(notes["embed/embedding"]) == int(model.inputs.max())


def naive(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Layers of tanh, and the largest input of each."""
    seen = []
    for w in weights:
        seen.append(float(np.abs(x).max()))
        x = np.tanh(x @ w)
    return x, seen


@pytest.mark.parametrize("reverse", [False, True])
def test_notes_stand_in_the_order_of_the_stack(reverse: bool) -> None:
    params, x = {"w": normal(0, (4, 3, 3))}, 5 * normal(1, (2, 3))

    def predict(p: Any, s: Any, x: Any) -> Any:
        body = lambda c, w: (jnp.tanh(c @ w), None)  # noqa: E731
        return jax.lax.scan(body, x, p["w"], reverse=reverse)[0]

    sites = find_sites(predict, params, {}, x)
    found, notes = replace_products(predict, sites, counting)(params, {}, x)
    step = -1 if reverse else 1
    expected, seen = naive(np.asarray(x), np.asarray(params["w"])[::step])
    close(found, expected)
    close(notes["w"], seen[::step])


def test_nested_scans_have_notes_with_both_axes() -> None:
    params, x = {"w": normal(0, (2, 3, 4, 4))}, 5 * normal(1, (2, 4))

    def predict(p: Any, s: Any, x: Any) -> Any:
        inner = lambda c, w: (jnp.tanh(c @ w), None)  # noqa: E731
        outer = lambda c, w: (jax.lax.scan(inner, c, w)[0], None)  # noqa: E731
        return jax.lax.scan(outer, x, p["w"])[0]

    sites = find_sites(predict, params, {}, x)
    found, notes = jax.jit(replace_products(predict, sites, counting))(params, {}, x)
    expected, seen = naive(np.asarray(x), np.asarray(params["w"]).reshape(6, 4, 4))
    close(found, expected)
    close(notes["w"], np.reshape(seen, (2, 3)))


JOINS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[list[float]], float]]] = {
    "largest": (jnp.maximum, max),
    "sum": (jnp.add, sum),
    "last": (lambda _, later: later, lambda seen: seen[-1]),
    "first": (lambda earlier, _: earlier, lambda seen: seen[0]),
}


@pytest.mark.parametrize("how", JOINS)
def test_notes_of_several_uses_are_joined(how: str) -> None:
    """Two uses outside of scans, and one in each of three rounds of a scan."""
    join, naively = JOINS[how]
    params, x = {"w": normal(0, (4, 4))}, 5 * normal(1, (2, 4))

    def predict(p: Any, s: Any, x: Any) -> Any:
        x = jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"])
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ p["w"]), None), x, None, length=3)[0]

    sites = find_sites(predict, params, {}, x)
    found, notes = replace_products(predict, sites, counting, join)(params, {}, x)
    expected, seen = naive(np.asarray(x), np.stack([np.asarray(params["w"])] * 5))
    close(found, expected)
    close(notes["w"], naively(seen))


def test_notes_may_be_pytrees_or_nothing() -> None:
    params, x = {"u": normal(0, (2, 4, 4)), "w": normal(1, (4, 3))}, normal(2, (2, 4))

    def predict(p: Any, s: Any, x: Any) -> Any:
        return jax.lax.scan(lambda c, u: (c @ u, None), x, p["u"])[0] @ p["w"]

    def handler(product: Product, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, Any]:
        note = {"x": x, "w": (weight,)} if product.site.weight == "u" else None
        return plainly(product, x, weight)[0], note

    sites = find_sites(predict, params, {}, x)
    _, notes = replace_products(predict, sites, handler)(params, {}, x)
    assert notes["w"] is None
    np.testing.assert_array_equal(notes["u"]["w"][0], params["u"])
    close(notes["u"]["x"], jnp.stack([x, x @ params["u"][0]]))


# Functions one at a time --------------------------------------------------------------------------

PARAMS = {
    "u": normal(0, (4, 4)),
    "w": normal(1, (4, 4)),
}
X = normal(2, (3, 4))


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
    "jit": lambda p, x: jax.jit(lambda a: jax.jit(jnp.dot)(a, p["w"]))(
        jax.jit(lambda a: a @ p["u"])(x)
    ),
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
    "looked up": lambda p, x: p["u"][jnp.arange(3)] @ p["w"],
    "tied": lambda p, x: (x @ p["u"]) @ p["u"].T @ p["w"],
    "tied by contraction": lambda p, x: jnp.einsum("bo,io->bi", x @ p["u"], p["u"]) @ p["w"],
    "tied to a look-up": lambda p, x: p["u"][jnp.arange(3)] @ p["w"] @ p["u"].T,
    "times a number": lambda p, x: x @ (2 * p["u"]) @ p["w"],
    "a column": lambda p, x: x[:, :1] @ p["u"][:, 1:2].T @ p["w"],
    "looked up past the end": lambda p, x: jnp.nan_to_num(p["u"][jnp.array([0, 9])]) @ p["w"],
    "in a scan": lambda p, x: (
        jax.lax.scan(lambda c, row: (c + row @ p["u"], None), jnp.zeros(4), x)[0] @ p["w"]
    ),
    "in a scan with outputs": lambda p, x: (
        jax.lax.scan(lambda c, row: (c + 1, row @ p["u"] + c), 0.0, x)[1] @ p["w"]
    ),
    "mapped": lambda p, x: jax.lax.map(lambda row: row @ p["u"], x) @ p["w"],
    "batched": lambda p, x: jax.vmap(lambda row: jnp.sin(row @ p["u"]) @ p["w"])(x),
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
        close(run(PARAMS, {}, X)[0], expected, rtol=rtol, atol=rtol)


def test_products_with_a_batch_of_weights() -> None:
    params, x = {"w": normal(0, (2, 3, 4))}, normal(1, (5, 2, 3))

    def predict(p: Any, s: Any, x: Any) -> Any:
        return jnp.einsum("bhi,hio->bho", x, p["w"])

    close(outputs(predict, scaled, (params, {}, x)), predict(params, {}, x))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_convolutions(groups: int) -> None:
    params, x = {"w": normal(0, (3, 4 // groups, 8))}, normal(1, (2, 6, 4))

    def predict(p: Any, s: Any, x: Any) -> Any:
        numbers = ("NHC", "HIO", "NHC")
        return jax.lax.conv_general_dilated(
            x, p["w"], (1,), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )

    close(outputs(predict, scaled, (params, {}, x)), jax.jit(predict)(params, {}, x))


@pytest.mark.parametrize(
    ("numbers", "x", "w"),
    [
        (("NHWC", "HWIO", "NHWC"), (2, 5, 6, 4), (3, 2, 4, 8)),
        (("NCHW", "OIHW", "NCHW"), (2, 4, 5, 6), (8, 4, 3, 2)),
        (("CNHW", "IOHW", "NHWC"), (4, 2, 5, 6), (4, 8, 3, 2)),
    ],
)
def test_layouts_of_convolutions(numbers: Any, x: Any, w: Any) -> None:
    """Split along the inputs and added up again, with scales besides."""
    params, inputs = {"w": normal(0, w)}, normal(1, x)

    def predict(p: Any, s: Any, x: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x,
            p["w"],
            (1, 1),
            "SAME",
            dimension_numbers=jax.lax.conv_dimension_numbers(x.shape, p["w"].shape, numbers),
        )

    def split(product: Product, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, None]:
        axis = product.site.inner_axis
        parts = jnp.split(x, 2, product.inputs_axis(axis)), jnp.split(weight, 2, axis)
        one, other = (product.run(*p, product.dtype) for p in zip(*parts, strict=True))
        return one + other, None

    expected = jax.jit(predict)(params, {}, inputs)
    for handler in (scaled, split):
        close(outputs(predict, handler, (params, {}, inputs)), expected)


NOT_FOUND: dict[str, Function] = {
    "also added": lambda p, x: (x @ p["u"]) @ p["w"] + p["u"].sum(),
    "also returned": lambda p, x: ((x @ p["u"]) @ p["w"], p["u"]),
    "columns looked up": lambda p, x: p["u"][:, jnp.arange(3)].T @ p["w"],
    "changed first": lambda p, x: x @ (2 + p["u"]) @ p["w"],
    "multiplied by more than a number": lambda p, x: x @ (jnp.arange(4.0) * p["u"]) @ p["w"],
    "normalised": lambda p, x: x @ (p["u"] / jnp.linalg.norm(p["u"])) @ p["w"],
    "rounded first": lambda p, x: x @ p["u"].astype(jnp.int32).astype(jnp.float32) @ p["w"],
    "cast and added": lambda p, x: x @ p["u"] @ p["w"] + p["u"].astype(jnp.float16)[0],
    "carried": lambda p, x: jax.lax.scan(lambda c, row: (2 * c, row @ c), p["u"], x)[1] @ p["w"],
    "taken for inputs by a scan": lambda p, x: (
        jax.lax.scan(lambda c, row: (c + row, None), jnp.zeros(4), p["u"])[0] @ p["w"]
    ),
    "branched on": lambda p, x: (
        jax.lax.cond(x[0, 0] > 0, lambda: x @ p["u"], lambda: 2 * x @ p["u"]) @ p["w"]
    ),
    "looped": lambda p, x: (
        jax.lax.while_loop(lambda c: c.max() < 9, lambda c: c @ p["u"] + 1, x) @ p["w"]
    ),
    "squared": lambda p, x: x @ p["w"] + (p["u"] @ p["u"])[0],
    "an output": lambda p, x: (x @ p["w"], jax.jit(lambda w: w)(p["u"])),
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
    jax.tree.map(close, run(PARAMS, {}, X)[0], function(PARAMS, X))


@jax.checkpoint
def _hands_back(x: Any, w: Any) -> Any:
    """As nnx.remat does, a call that returns its parameters as well."""
    return x @ w, w


HANDED: dict[str, Function] = {
    "by a call": lambda p, x: x @ jax.jit(lambda w: w)(p["u"]) @ p["w"],
    "by a checkpoint": lambda p, x: _hands_back(x, p["u"])[0] @ p["w"],
    "and used again": lambda p, x: jnp.dot(*_hands_back(x, p["u"])) @ p["w"],
}


@pytest.mark.parametrize("how", HANDED)
def test_a_weight_that_is_handed_through_stays_a_weight(how: str) -> None:
    function = HANDED[how]
    sites = find_sites(lambda p, s, x: function(p, x), PARAMS, {}, X)
    assert sorted(sites) == ["u", "w"]
    run = replace_products(lambda p, s, x: function(p, x), sites, scaled)
    jax.tree.map(close, run(PARAMS, {}, X)[0], function(PARAMS, X))


def test_the_structure_of_the_outputs_is_kept() -> None:
    def predict(p: Any, s: Any, x: Any) -> Any:
        return {"logits": x @ p["w"], "parts": (x, [s["bias"]])}

    params, state = {"w": PARAMS["w"]}, {"bias": jnp.ones(2)}
    sites = find_sites(predict, params, state, X)
    found, notes = replace_products(predict, sites, plainly)(params, state, X)
    expected = predict(params, state, X)
    assert found.keys() == expected.keys()
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert notes == {"w": None}


def test_numpy_arrays_do_as_well() -> None:
    def predict(p: Any, s: Any, x: Any) -> Any:
        return x @ p["w"] + p["b"] * s["gain"]

    params = {"w": np.ones((4, 2), np.float32), "b": np.ones(2, np.float32)}
    state = {"gain": np.float32(3)}
    sites = find_sites(predict, params, state, X)
    found, _ = replace_products(predict, sites, plainly)(params, state, X)
    np.testing.assert_allclose(found, predict(params, state, X), rtol=1e-6)
