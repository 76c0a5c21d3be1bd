"""Sites are found in models of every kind, with the numbers that follow from their shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from paretax.spaces.sites import Kind, Site, find_sites

if TYPE_CHECKING:
    from tests.conftest import Net
    from tests.spaces.conftest import Example

Function = Callable[[Any, Any], Any]


def site(
    weight: str,
    kind: Kind,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    multiply_adds: int,
    **rest: Any,
) -> Site:
    return Site(
        weight=weight, kind=kind, shape=shape, axes=axes, multiply_adds=multiply_adds, **rest
    )


def ones(*shape: int) -> jax.Array:
    return jnp.ones(shape)


def found(function: Function, params: Any, x: Any) -> dict[str, Site]:
    return find_sites(lambda p, s, x: function(p, x), params, {}, x)


# Models of every kind -----------------------------------------------------------------------------

# 4 x 4 images: a convolution by 3 x 3 of 1 into 4 channels, 16 tokens of 4, 2 heads of 2, 3 outputs
ATTENTION = [
    site("attention/query/kernel", "dot", (4, 2, 2), (0,), 16 * 4 * 4),
    site("attention/key/kernel", "dot", (4, 2, 2), (0,), 16 * 4 * 4),
    site("attention/value/kernel", "dot", (4, 2, 2), (0,), 16 * 4 * 4),
    site("attention/out/kernel", "dot", (2, 2, 4), (0, 1), 16 * 4 * 4),
]
FLAX = [
    site("conv/kernel", "convolution", (3, 3, 1, 4), (0, 1, 2), 16 * 9 * 4),
    *ATTENTION,
    site("out/kernel", "dot", (4, 3), (0,), 4 * 3),
]
PAIR = [
    site("first/w", "dot", (16, 6), (0,), 16 * 6),
    site("out", "dot", (6, 3), (0,), 6 * 3),
]
EXPECTED = {"nnx": FLAX, "linen": FLAX, "pair": PAIR}


def test_the_weights_of_a_model_are_found_in_order(net: Net) -> None:
    sites = find_sites(net.model.predict, net.params, net.state, net.inputs)
    assert list(sites.values()) == EXPECTED[net.kind]
    assert list(sites) == [s.weight for s in EXPECTED[net.kind]]


def test_shapes_are_enough_to_find_them(net: Net) -> None:
    shapes = jax.eval_shape(lambda: (net.params, net.state, net.inputs))
    assert list(find_sites(net.model.predict, *shapes).values()) == EXPECTED[net.kind]


def test_training_has_the_sites_of_inference(net: Net) -> None:
    key = jax.random.key(0)
    sites = find_sites(net.model.apply, net.params, net.state, net.inputs, key)
    assert list(sites.values()) == EXPECTED[net.kind]


def test_sizes_and_channels() -> None:
    conv, query, _, _, out, _ = FLAX
    assert [s.size for s in (conv, query, out)] == [36, 16, 16]
    assert [s.channels for s in (conv, query, out)] == [4, 4, 4]
    assert [s.inner_axis for s in (conv, query, out)] == [2, 0, 1]
    assert [s.path for s in (conv, out, PAIR[1])] == ["conv", "attention/out", ""]


def test_the_weights_precision_is_that_before_a_cast(bfloat16_net: Net) -> None:
    """They are sites although the model casts them first."""
    net = bfloat16_net
    low = {n: a.astype(jnp.bfloat16) for n, a in net.params.items()}
    for params, dtype in ((net.params, "float32"), (low, "bfloat16")):
        sites = find_sites(net.model.predict, params, net.state, net.inputs)
        assert {n: s.dtype for n, s in sites.items()} == {"conv/kernel": dtype, "out/kernel": dtype}


# Multiply-adds ------------------------------------------------------------------------------------


def test_multiply_adds_are_of_one_example() -> None:
    def predict(p: Any, x: Any) -> Any:
        return x @ p["w"]

    for batch in (1, 2, 7):
        assert found(predict, {"w": ones(4, 3)}, ones(batch, 4))["w"].multiply_adds == 12
    assert found(predict, {"w": ones(4, 3)}, ones(2, 5, 4))["w"].multiply_adds == 5 * 12
    assert found(predict, {"w": ones(4, 3)}, ones(0, 4))["w"].multiply_adds == 0


def test_multiply_adds_of_two_uses_are_added() -> None:
    sites = found(lambda p, x: jnp.sin(x @ p["w"]) @ p["w"], {"w": ones(4, 4)}, ones(3, 4))
    assert sites["w"].multiply_adds == 2 * 16


@pytest.mark.parametrize(
    ("groups", "stride", "each"),
    [
        (1, 1, 6 * 8 * 3 * 4),  # 6 places x 8 channels x a window of 3 x 4 inputs
        (1, 2, 3 * 8 * 3 * 4),
        (2, 1, 6 * 8 * 3 * 2),
        (4, 3, 2 * 8 * 3 * 1),
    ],
)
def test_multiply_adds_of_convolutions(groups: int, stride: int, each: int) -> None:
    def predict(p: Any, x: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x,
            p["w"],
            (stride,),
            "SAME",
            dimension_numbers=("NHC", "HIO", "NHC"),
            feature_group_count=groups,
        )

    shape = (3, 4 // groups, 8)
    expected = site("w", "convolution", shape, (0, 1), each, grouped=groups > 1)
    assert found(predict, {"w": ones(*shape)}, ones(2, 6, 4)) == {"w": expected}
    assert expected.channels == 8


def test_the_input_channels_of_a_convolution_come_last_in_every_layout() -> None:
    def predict(p: Any, x: Any) -> Any:
        return jax.lax.conv(x, p["w"], (1, 1), "VALID")  # NCHW, OIHW

    expected = site("w", "convolution", (8, 4, 3, 2), (2, 3, 1), 3 * 4 * 8 * 24)
    sites = found(predict, {"w": ones(8, 4, 3, 2)}, ones(2, 4, 5, 5))
    assert sites == {"w": expected}
    assert sites["w"].inner_axis == 1
    assert sites["w"].channels == 8


def test_a_product_with_a_batch_of_weights() -> None:
    sites = found(
        lambda p, x: jnp.einsum("bhi,hio->bho", x, p["w"]), {"w": ones(2, 3, 4)}, ones(5, 2, 3)
    )
    assert sites == {"w": site("w", "dot", (2, 3, 4), (1,), 2 * 3 * 4)}
    assert sites["w"].channels == 8


def test_inputs_without_a_batch() -> None:
    sites = found(lambda p, x: (x * jnp.ones(4)) @ p["w"], {"w": ones(4, 3)}, jnp.float32(2))
    assert sites == {"w": site("w", "dot", (4, 3), (0,), 12)}


# Scans --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["nnx", "linen"])
def test_a_scan_over_blocks_is_a_stack_of_sites(
    example: Callable[[str], Example], api: str
) -> None:
    """3 blocks over 7 tokens of 8: 2 heads of 4, and an MLP of 16."""
    model = example(f"stack-{api}")
    sites = find_sites(model.predict, model.params, model.state, model.inputs)
    each = 3 * 7 * 8 * 8

    def block(name: str, shape: tuple[int, ...], axes: tuple[int, ...], times: int = 1) -> Site:
        return site(f"blocks/{name}/kernel", "dot", (3, *shape), axes, times * each, stack=1)

    assert list(sites.values()) == [
        site("embed/embedding", "embedding", (11, 8), (0,), 0),
        block("attention/query", (8, 2, 4), (1,)),
        block("attention/key", (8, 2, 4), (1,)),
        block("attention/value", (8, 2, 4), (1,)),
        block("attention/out", (2, 4, 8), (1, 2)),
        block("up", (8, 16), (1,), 2),
        block("down", (16, 8), (1,), 2),
        site("out/kernel", "dot", (8, 3), (0,), 24),
    ]
    out = sites["blocks/attention/out/kernel"]
    assert (out.size, out.channels, out.inner_axis) == (3 * 64, 3 * 8, 2)
    assert out.slice == replace(out, shape=(2, 4, 8), axes=(0, 1), stack=0)


def over(body: Callable[[Any, Any], Any], x: Any, weights: Any) -> Any:
    """The last result of a scan that starts at x."""
    return jax.lax.scan(lambda x, w: (body(x, w), None), x, weights)[0]


def test_a_weight_that_the_body_closes_over_is_one_site() -> None:
    def predict(p: Any, x: Any) -> Any:
        return over(lambda c, _: jnp.tanh(c @ p["w"]), x, jnp.arange(5))

    sites = found(predict, {"w": ones(4, 4)}, ones(2, 4))
    assert sites == {"w": site("w", "dot", (4, 4), (0,), 5 * 16)}


def test_nested_scans_stack_twice() -> None:
    """The outer scan slices both weights, the inner one only the first."""

    def predict(p: Any, x: Any) -> Any:
        def outer(c: Any, w: Any) -> Any:
            return over(lambda c, u: jnp.tanh(c @ u) @ w["v"], c, w["u"])

        return over(outer, x, p)

    params = {"u": ones(2, 3, 4, 4), "v": ones(2, 4, 4)}
    assert found(predict, params, ones(5, 4)) == {
        "u": site("u", "dot", (2, 3, 4, 4), (2,), 6 * 16, stack=2),
        "v": site("v", "dot", (2, 4, 4), (1,), 6 * 16, stack=1),
    }


def test_sites_of_a_scan_come_in_the_order_of_use() -> None:
    """Not in that of their names: `first` and `last` go by it."""

    def predict(p: Any, x: Any) -> Any:
        return over(lambda c, w: jnp.sin(c @ w["z"]) @ w["a"] @ p["m"], x, {k: p[k] for k in "az"})

    params = {"a": ones(2, 4, 4), "m": ones(4, 4), "z": ones(2, 4, 4)}
    assert list(found(predict, params, ones(2, 4))) == ["z", "a", "m"]


def test_a_reversed_scan_in_a_jit() -> None:
    def predict(p: Any, x: Any) -> Any:
        body = jax.checkpoint(lambda c, w: (jnp.sin(c @ w.astype(jnp.bfloat16)), None))
        run = jax.jit(lambda x, w: jax.lax.scan(body, x, w, reverse=True)[0])
        return run(x.astype(jnp.bfloat16), p["w"])

    sites = found(predict, {"w": ones(3, 4, 4)}, ones(2, 4))
    assert sites == {"w": site("w", "dot", (3, 4, 4), (1,), 3 * 16, stack=1)}


IN_SCANS: dict[str, Function] = {
    "carried": lambda p, x: jax.lax.scan(
        lambda c, _: ((c[0] @ c[1], 2 * c[1]), None), (x, p["u"]), None, length=2
    )[0][0],
    "added as well": lambda p, x: over(lambda c, w: c @ w + w, x, p["s"]),
    "given back": lambda p, x: jax.lax.scan(lambda c, w: (c @ w, w), x, p["s"]),
    "a product of two": lambda p, x: over(lambda c, w: c @ (w @ p["u"]), x, p["s"]),
    "whole in the body": lambda p, x: over(lambda c, w: c @ w + p["s"].sum(), x, p["s"]),
    "a while loop": lambda p, x: jax.lax.while_loop(
        lambda c: c[0, 0] < 1e3, lambda c: c @ p["u"], x
    ),
    "a for loop": lambda p, x: jax.lax.fori_loop(
        0, x.astype(int)[0, 0], lambda _, c: c @ p["u"], x
    ),
}


MIXED: dict[str, Function] = {
    "sliced and closed over": lambda p, x: over(lambda c, w: c @ w @ p["s"][0], x, p["s"]),
    "sliced by hand": lambda p, x: over(lambda c, i: c @ p["s"][i], x, jnp.arange(3)),
    "sliced in one, not in another": lambda p, x: over(lambda c, w: c @ w, x, p["s"]) @ p["s"][1],
}


@pytest.mark.parametrize("how", MIXED)
def test_a_stack_that_is_not_only_sliced_by_scans_is_one_site(how: str) -> None:
    sites = found(MIXED[how], {"s": ones(3, 4, 4)}, ones(4, 4))
    assert [(s.axes, s.stack, s.shape) for s in sites.values()] == [((1,), 0, (3, 4, 4))]


@pytest.mark.parametrize("how", IN_SCANS)
def test_loops_without_a_site(how: str) -> None:
    params = {"s": ones(3, 4, 4), "u": ones(4, 4)}
    assert found(IN_SCANS[how], params, ones(4, 4)) == {}


# Embeddings ---------------------------------------------------------------------------------------

TOKENS = jnp.array([[1, 2, 0], [3, 3, 1]])
LOOK_UPS: dict[str, Function] = {
    "indexed": lambda p, x: p["e"][x],
    "taken": lambda p, x: jnp.take(p["e"], x, axis=0),
    "with a mode": lambda p, x: jnp.take(p["e"], x, axis=0, mode="clip"),
    "in a jit": lambda p, x: jax.jit(lambda e: e[x])(p["e"]),
    "cast": lambda p, x: p["e"].astype(jnp.bfloat16)[x],
}


@pytest.mark.parametrize("how", LOOK_UPS)
def test_look_ups_of_rows_are_sites(how: str) -> None:
    sites = found(LOOK_UPS[how], {"e": ones(4, 6)}, TOKENS)
    assert sites == {"e": site("e", "embedding", (4, 6), (0,), 0)}
    assert sites["e"].channels == 6


OTHER_LOOK_UPS: dict[str, Function] = {
    "columns": lambda p, x: jnp.take(p["e"], x, axis=1),
    "single numbers": lambda p, x: p["e"][x, x],
    "parts of rows": lambda p, x: p["e"][x, :2],
    "as indices": lambda p, x: jnp.arange(9)[p["e"].astype(int)] + x[0, 0],
}


@pytest.mark.parametrize("how", OTHER_LOOK_UPS)
def test_other_look_ups_are_none(how: str) -> None:
    assert found(OTHER_LOOK_UPS[how], {"e": ones(4, 6)}, TOKENS) == {}


@pytest.mark.parametrize("api", ["nnx", "linen"])
def test_embeddings_of_flax(example: Callable[[str], Example], api: str) -> None:
    model = example(f"tokens-{api}")
    sites = find_sites(model.predict, model.params, model.state, model.inputs)
    assert next(iter(sites.values())) == site("embed/embedding", "embedding", (11, 6), (0,), 0)
    assert [s.kind for s in sites.values()] == ["embedding", *["dot"] * 5]


TIED: dict[str, Function] = {
    "transposed": lambda p, x: p["e"][x] @ p["e"].T,
    "by contraction": lambda p, x: jnp.einsum("btd,vd->btv", p["e"][x], p["e"]),
    "before": lambda p, x: p["e"][(p["e"] @ jnp.ones(6)).astype(int)[x]],
}


@pytest.mark.parametrize("how", TIED)
def test_a_table_that_is_also_multiplied_is_one_site(how: str) -> None:
    """Its scales are those of its rows, which a look-up takes along."""
    (table,) = found(TIED[how], {"e": ones(4, 6)}, TOKENS).values()
    assert (table.kind, table.axes, table.whole) == ("dot", (1,), False)


def test_a_tied_embedding_of_flax_is_one_site() -> None:
    def predict(p: Any, x: Any) -> Any:
        embed = nnx.Embed(11, 6, rngs=nnx.Rngs(0))
        embed.embedding = nnx.Param(p["embedding"])
        return embed.attend(embed(x) @ p["w"])

    sites = found(predict, {"embedding": ones(11, 6), "w": ones(6, 6)}, TOKENS)
    assert sites == {
        "embedding": site("embedding", "dot", (11, 6), (1,), 3 * 11 * 6, whole=False),
        "w": site("w", "dot", (6, 6), (0,), 3 * 36),
    }


# What is none -------------------------------------------------------------------------------------


def test_a_convolution_by_a_weight_on_the_left_is_none() -> None:
    """A learned image that is convolved: its batch is no channel."""

    def predict(p: Any, x: Any) -> Any:
        numbers = ("NHC", "HIO", "NHC")
        return jax.lax.conv_general_dilated(p["image"], x, (1,), "SAME", dimension_numbers=numbers)

    assert found(predict, {"image": ones(1, 4, 1)}, ones(3, 1, 2)) == {}


def test_a_product_of_two_weights_is_none() -> None:
    params = {"u": ones(4, 4), "w": ones(4, 4)}
    assert found(lambda p, x: x @ (p["u"] @ p["w"]), params, ones(3, 4)) == {}


def test_products_of_state_and_inputs_are_none() -> None:
    def predict(p: Any, s: Any, x: Any) -> Any:
        return x @ s["table"] @ p["w"] @ x

    sites = find_sites(predict, {"w": ones(4, 3)}, {"table": ones(4, 4)}, ones(3, 4))
    assert list(sites) == ["w"]


def test_a_branch_is_not_looked_into() -> None:
    def predict(p: Any, x: Any) -> Any:
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ p["u"], lambda: 2 * x @ p["u"]) @ p["w"]

    assert list(found(predict, {"u": ones(4, 4), "w": ones(4, 4)}, ones(3, 4))) == ["w"]


def test_numpy_arrays_do_as_well() -> None:
    params = {"w": np.ones((4, 2), np.float32), "b": np.ones(2, np.float32)}
    sites = found(lambda p, x: x @ p["w"] + p["b"], params, np.ones((3, 4), np.float32))
    assert sites == {"w": site("w", "dot", (4, 2), (0,), 8)}


# Dtypes -------------------------------------------------------------------------------------------


def test_a_site_knows_the_dtypes_of_its_products() -> None:
    """Of the operands as they are multiplied, and of the results, over all uses."""
    low = jnp.bfloat16

    def predict(p: Any, x: Any) -> Any:
        y = jnp.dot(x.astype(low), p["m"].astype(low), preferred_element_type=jnp.float32)
        z = y @ p["w"] + (x.astype(low) @ p["w"].astype(low)).astype(jnp.float32)
        return z + p["h"][jnp.zeros(2, jnp.int32)].astype(jnp.float32)

    params = {n: ones(4, 4) for n in "mw"} | {"h": ones(3, 4).astype(jnp.float16)}
    sites = found(predict, params, ones(2, 4))
    assert {n: s.dtypes for n, s in sites.items()} == {
        "m": ("bfloat16", "float32"),
        "w": ("bfloat16", "float32"),
        "h": ("float16",),
    }
    assert {n: s.dtype for n, s in sites.items()} == {
        "m": "float32",
        "w": "float32",
        "h": "float16",
    }


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.int8])
def test_whole_numbers_are_no_site(dtype: Any) -> None:
    """Nothing of what is done to sites goes with them: not a table of indices, not an operand."""

    def predict(p: Any, x: Any) -> Any:
        rows = p["table"][x[:, 0].astype(jnp.int32)]
        return jnp.matmul(x, p["w"].astype(jnp.float32)) + rows

    params = {"table": jnp.ones((3, 4), dtype), "w": jnp.ones((4, 4), dtype)}
    assert found(predict, params, ones(2, 4)) == {}
