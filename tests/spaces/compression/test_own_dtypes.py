"""A model's own dtypes: what nothing is done to is stored and computed as the model has it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from paretax.spaces.compression import (
    compress,
    deploy,
    deployed_shapes,
    grid,
    in_stored_format,
    observe,
    simulate,
    widths_of,
)
from paretax.spaces.floating import stored_format
from paretax.spaces.recipe import Recipe
from paretax.spaces.sites import Site, find_sites
from paretax.spaces.storage import Layout, layout, pack, stored_bytes, unpack
from paretax.tasks import Data, Split, build_model, classification

KINDS: Mapping[str, tuple[Any, Any, Any]] = {  # of parameters, of products, of the last product
    "bfloat16": (jnp.bfloat16, jnp.bfloat16, jnp.bfloat16),
    "float16": (jnp.float16, jnp.float16, jnp.float16),
    "mixed precision": (jnp.float32, jnp.bfloat16, jnp.bfloat16),
    "low weights": (jnp.bfloat16, jnp.float32, jnp.float32),
    "mixed layers": (jnp.float16, jnp.bfloat16, jnp.float32),
}


class NnxNet(nnx.Module):
    """Convolution, norm, a table that is looked up, a permutation, a dense layer."""

    def __init__(self, kind: str, rngs: nnx.Rngs) -> None:
        own, low, last = KINDS[kind]
        self.conv = nnx.Conv(1, 4, (3, 3), dtype=low, param_dtype=own, rngs=rngs)
        self.norm = nnx.LayerNorm(4, dtype=low, param_dtype=own, rngs=rngs)
        self.embed = nnx.Embed(3, 4, dtype=low, param_dtype=own, rngs=rngs)
        self.order = nnx.Param(jnp.arange(64)[::-1])
        self.out = nnx.Linear(64, 3, dtype=last, param_dtype=own, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.norm(self.conv(x)))
        rows = self.embed((x[:, 0, 0, 0] > 0).astype(jnp.int32))
        y = (y + rows[:, None, None]).reshape(x.shape[0], 64)
        return self.out(y[:, self.order[...]])


class LinenNet(linen.Module):
    """The same in flax.linen."""

    kind: str

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        own, low, last = KINDS[self.kind]
        y = linen.Conv(4, (3, 3), dtype=low, param_dtype=own, name="conv")(x)
        y = linen.relu(linen.LayerNorm(dtype=low, param_dtype=own, name="norm")(y))
        embed = linen.Embed(3, 4, dtype=low, param_dtype=own, name="embed")
        y = y + embed((x[:, 0, 0, 0] > 0).astype(jnp.int32))[:, None, None]
        order = self.param("order", lambda _: jnp.arange(64)[::-1])
        y = y.reshape(x.shape[0], 64)[:, order]
        return linen.Dense(3, dtype=last, param_dtype=own, name="out")(y)


def pair(kind: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The same in functions."""
    own, low, last = KINDS[kind]

    def init(key: jax.Array, x: jax.Array) -> dict[str, Any]:
        keys = jax.random.split(key, 3)
        return {
            "conv": jax.random.normal(keys[0], (3, 3, 1, 4), own),
            "embed": jax.random.normal(keys[1], (3, 4), own),
            "gain": jnp.ones(4, own),
            "order": jnp.arange(64)[::-1],
            "out": jax.random.normal(keys[2], (64, 3), own),
        }

    def apply(p: dict[str, Any], x: jax.Array) -> jax.Array:
        rows = p["embed"][(x[:, 0, 0, 0] > 0).astype(jnp.int32)].astype(low)
        y = jax.lax.conv_general_dilated(
            x.astype(low),
            p["conv"].astype(low),
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        y = jax.nn.relu(y * p["gain"].astype(low)) + rows[:, None, None]
        y = y.reshape(x.shape[0], 64)[:, p["order"]].astype(last)
        return jnp.matmul(y, p["out"].astype(last))

    return init, apply


BUILDS: Mapping[str, Callable[[str], Callable[..., Any]]] = {
    "nnx": lambda kind: lambda config, rngs: NnxNet(kind, rngs),
    "linen": lambda kind: lambda config: LinenNet(kind=kind),
    "pair": lambda kind: lambda config: pair(kind),
}


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A model with arrays, of which none is constant, a batch, and its sites."""

    predict: Callable[..., Any]
    params: dict[str, jax.Array]
    state: dict[str, jax.Array]
    inputs: jax.Array
    sites: dict[str, Site]

    def arrays(self, recipe: Recipe) -> tuple[dict[str, jax.Array], Any]:
        """What the deployed program takes, and the steps behind it."""
        ranges = jax.jit(observe(self.predict, self.sites))(self.params, self.state, self.inputs)
        steps = grid(recipe, self.sites, self.params, ranges, widths_of(recipe), {})
        return compress(recipe, self.sites, self.params, self.state, steps), steps

    def program(self, recipe: Recipe) -> Any:
        return jax.jit(deploy(self.predict, self.sites, recipe, tuple(self.state)))


@cache
def traced(way: str, kind: str) -> Traced:
    part = Split(np.zeros((2, 4, 4, 1), np.float32), np.arange(2))
    task = classification(
        "images", load=lambda: Data(train=part, validation=part, test=part),
        build=BUILDS[way](kind), defaults={},
    )  # fmt: skip
    model = build_model(task, {}, jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32))
    params, state = jax.jit(model.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    params = {n: jnp.asarray(rng.normal(0, 0.5, a.shape), a.dtype) for n, a in params.items()}
    inputs = jnp.asarray(rng.normal(size=(6, 4, 4, 1)), jnp.float32)
    sites = find_sites(model.predict, params, state, inputs)
    return Traced(predict=model.predict, params=params, state=state, inputs=inputs, sites=sites)


ALL = [(way, kind) for kind in KINDS for way in BUILDS]


def dtypes_in(text: str) -> list[str]:
    """The operands' and the result's types of each product and look-up of a lowered program."""
    kinds = "dot_general|convolution|gather"
    pattern = (
        rf"stablehlo\.\"?({kinds})\"?.*: \(tensor<([^>]*)>, tensor<([^>]*)>\) -> tensor<([^>]*)>"
    )
    found = re.findall(pattern, text)
    return [" ".join([kind, *(s.rpartition("x")[2] for s in shapes)]) for kind, *shapes in found]


@pytest.mark.parametrize(("way", "kind"), ALL)
def test_with_nothing_done_it_is_the_model(way: str, kind: str) -> None:
    """The same numbers bit for bit, from the same products, over the same arrays."""
    net = traced(way, kind)
    assert len(net.sites) == 3
    for recipe in (Recipe.of({}, net.sites), Recipe.plain(net.sites)):
        assert not recipe.rounds
        arrays, steps = net.arrays(recipe)
        assert steps == {}
        assert {n: a.dtype for n, a in arrays.items()} == {
            n: a.dtype for n, a in {**net.params, **net.state}.items()
        }
        plain = jax.jit(net.predict)
        expected = plain(net.params, net.state, net.inputs)
        found = net.program(recipe)(arrays, net.inputs)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        texts = [
            plain.lower(net.params, net.state, net.inputs).as_text(),
            net.program(recipe).lower(arrays, net.inputs).as_text(),
        ]
        assert len(dtypes_in(texts[0])) >= 3
        assert dtypes_in(texts[1]) == dtypes_in(texts[0])


CHANGES: Mapping[str, dict[str, Any]] = {
    "8 and 8": {"quantize": True},
    "weights alone": {"weight_bits": 4},
    "inputs alone": {"activation_bits": 6},
    "partly": {"weight_bits@last": 3, "activation_bits@last": 7, "precision@first": "float8"},
    "float8": {"precision": "float8"},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "float32": {"precision": "float32"},
}


@pytest.mark.parametrize(
    ("way", "kind", "how"),
    [
        *(("nnx", "bfloat16", how) for how in CHANGES),
        *(("linen", "mixed precision", how) for how in ("8 and 8", "weights alone", "partly")),
        *(("pair", "mixed layers", how) for how in ("8 and 8", "inputs alone", "partly")),
        *(("linen", "float16", how) for how in ("8 and 8", "float8")),
    ],
)
def test_scored_and_deployed_are_the_same_numbers(way: str, kind: str, how: str) -> None:
    net = traced(way, kind)
    recipe = Recipe.of(CHANGES[how], net.sites)
    arrays, steps = net.arrays(recipe)
    shapes = deployed_shapes(recipe, net.sites, net.params, net.state)
    assert {n: (a.shape, a.dtype) for n, a in arrays.items()} == {
        n: (a.shape, a.dtype) for n, a in shapes.items()
    }
    for name, array in {**net.params, **net.state}.items():
        if name not in net.sites:
            assert arrays[name].dtype == array.dtype
    stored = in_stored_format(recipe, net.sites, net.params)
    scored = jax.jit(simulate(net.predict, net.sites, recipe))
    expected = jax.eval_shape(net.predict, net.params, net.state, net.inputs)
    one = scored(stored, net.state, net.inputs, steps)
    other = net.program(recipe)(arrays, net.inputs)
    assert one.dtype == other.dtype == expected.dtype
    np.testing.assert_array_equal(one, other)


def test_weights_that_are_cast_to_bfloat16_anyway_are_stored_in_it_without_a_change() -> None:
    for way in BUILDS:
        net = traced(way, "mixed precision")
        recipe = Recipe.of({"precision": "bfloat16"}, net.sites)
        assert recipe.rounds
        arrays, _ = net.arrays(recipe)
        assert {arrays[name].dtype for name in net.sites} == {jnp.dtype(jnp.bfloat16)}
        expected = jax.jit(net.predict)(net.params, net.state, net.inputs)
        np.testing.assert_array_equal(net.program(recipe)(arrays, net.inputs), expected)


@pytest.mark.parametrize(
    ("kind", "precision", "format_"),
    [
        ("bfloat16", "float32", "bfloat16"),
        ("bfloat16", "float16", "float16"),
        ("bfloat16", "float8", "float8"),
        ("float16", "bfloat16", "bfloat16"),
        ("float16", "float32", "float16"),
        ("mixed precision", "float32", "float32"),
        ("mixed precision", "float16", "float16"),
    ],
)
def test_a_wider_format_is_not_stored(kind: str, precision: str, format_: str) -> None:
    net = traced("pair", kind)
    for name, treatment in Recipe.of({"precision": precision}, net.sites).treatments.items():
        assert stored_format(net.sites[name], treatment.precision) == format_


def test_float32_is_computed_in_where_it_is_asked_for() -> None:
    """Although the model would not: its products are in bfloat16."""
    net = traced("nnx", "mixed precision")
    recipe = Recipe.of({"precision": "float32"}, net.sites)
    text = net.program(recipe).lower(net.arrays(recipe)[0], net.inputs).as_text()
    assert [t for t in dtypes_in(text) if "bf16" in t and "gather" not in t] == []


# Bytes --------------------------------------------------------------------------------------------

WEIGHTS, OTHERS, ORDER = 36 + 12 + 192, {"nnx": 4 + 8 + 3, "linen": 4 + 8 + 3, "pair": 4}, 4 * 64


@pytest.mark.parametrize(("way", "kind"), ALL)
def test_bytes_by_hand(way: str, kind: str) -> None:
    net = traced(way, kind)
    width = jnp.dtype(KINDS[kind][0]).itemsize
    rest = width * OTHERS[way] + ORDER

    def size(**config: Any) -> int:
        recipe = Recipe.of(config, net.sites)
        shapes = deployed_shapes(recipe, net.sites, net.params, net.state)
        return stored_bytes(net.sites, recipe, shapes)

    assert size() == width * WEIGHTS + rest
    assert size(precision="bfloat16") == 2 * WEIGHTS + rest
    assert size(weight_bits=8) == WEIGHTS + 4 * (4 + 4 + 3) + rest
    assert size(weight_bits=4) == WEIGHTS // 2 + 4 * (4 + 4 + 3) + rest
    kept = width * 96 + 192 // 8  # half of the last one's weights, and their bitmap
    assert size(**{"sparsity@last": 0.5}) == width * (36 + 12) + kept + rest


@pytest.mark.parametrize(
    "how", [{}, {"sparsity": 0.5}, CHANGES["partly"], CHANGES["float16"]], ids=str
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_packed_is_unpacked_to_the_same_bits(kind: str, how: dict[str, Any]) -> None:
    net = traced("pair", kind)
    recipe = Recipe.of(how, net.sites)
    pruned = {n: jnp.where(jnp.arange(a.size).reshape(a.shape) % 2 == 0, a, 0) if n in net.sites
              else a for n, a in net.params.items()}  # fmt: skip
    if how != {"sparsity": 0.5}:
        pruned = net.params
    arrays, _ = Traced(**{**net.__dict__, "params": pruned}).arrays(recipe)
    kept = {n: np.asarray(pruned[n] != 0) for n in net.sites}
    stored = pack(arrays, kept, net.sites, recipe)
    layouts: dict[str, Layout] = {
        n: layout(s, recipe.treatments[n], int((~kept[n]).sum())) for n, s in net.sites.items()
    }
    limits = {
        n: float(np.asarray(arrays[f"{n}.input"]).flat[1])
        for n in net.sites
        if f"{n}.input" in arrays
    }
    again = unpack(stored, layouts, limits)
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(
            again[name].astype(np.float64), np.asarray(array).astype(np.float64)
        )
