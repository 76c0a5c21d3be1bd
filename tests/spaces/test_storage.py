"""The stored form of a deployed model, to the byte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from paretax.spaces.compression import Recipe, compress, deployed_shapes, masks
from paretax.spaces.quantization import FLOAT_BITS, largest_code
from paretax.spaces.sites import Site, find_sites
from paretax.spaces.storage import Layout, layout, pack, stored_bytes, unpack
from paretax.tasks import Model, build_model
from paretax.tasks.breast_cancer import task as breast_cancer
from paretax.tasks.mnist5k import task as mnist5k

WIDTHS = (*range(2, 9), FLOAT_BITS)

RECIPES = [
    Recipe(sparsity=sparsity, weight_bits=weight, activation_bits=active)
    for sparsity in (0.0, 0.1, 0.34, 0.9)
    for weight, active in [(2, 8), (3, 32), (5, 4), (7, 6), (8, 8), (32, 8), (32, 32)]
]


def naive_pack(codes: Sequence[int], bits: int) -> bytes:
    """Two's complement, lowest bit first, without gaps: one bit at a time."""
    packed = bytearray((len(codes) * bits + 7) // 8)
    place = 0
    for code in codes:
        for bit in range(bits):
            if (code >> bit) & 1:  # Python's integers are in two's complement without an end
                packed[place // 8] |= 1 << (place % 8)
            place += 1
    return bytes(packed)


def naive_unpack(packed: bytes, bits: int, count: int) -> list[int]:
    found = []
    for index in range(count):
        places = range(index * bits, (index + 1) * bits)
        code = sum(((packed[p // 8] >> (p % 8)) & 1) << i for i, p in enumerate(places))
        found.append(code - (1 << bits) if code >> (bits - 1) else code)
    return found


def site(shape: tuple[int, ...]) -> Site:
    return Site(weight="w", kind="dot", shape=shape, axes=(0,))


@st.composite
def stored_weights(draw: st.DrawFn) -> tuple[Recipe, np.ndarray, np.ndarray]:
    """A recipe, and deployed weights with the mask that it asks for."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    bits = draw(st.sampled_from(WIDTHS))
    recipe = Recipe(sparsity=draw(st.floats(0, 0.99)), weight_bits=bits)
    where = site(shape)
    order = draw(st.permutations(range(where.size)))
    mask = np.ones(where.size, bool)
    mask[list(order[: recipe.pruned({"w": where})["w"]])] = False
    if bits == FLOAT_BITS:
        numbers = st.floats(width=32, allow_nan=False)
        values = np.array(
            draw(st.lists(numbers, min_size=where.size, max_size=where.size)), np.float32
        )
    else:
        limit = 2 ** (bits - 1) - 1
        codes = st.integers(-limit, limit)
        values = np.array(draw(st.lists(codes, min_size=where.size, max_size=where.size)), np.int8)
    return recipe, np.where(mask, values, 0).astype(values.dtype).reshape(shape), mask


@given(stored_weights())
def test_what_is_packed_comes_back(case: tuple[Recipe, np.ndarray, np.ndarray]) -> None:
    recipe, weights, mask = case
    sites = {"w": site(weights.shape)}
    stored = pack({"w": weights}, {"w": mask.reshape(weights.shape)}, sites, recipe)
    form = layout(sites["w"], recipe)
    assert sum(array.nbytes for array in stored.values()) == form.nbytes
    found = unpack(stored, {"w": form}, 0.0)
    assert list(found) == ["w"]
    assert found["w"].dtype == weights.dtype
    np.testing.assert_array_equal(found["w"], weights)


@pytest.mark.parametrize("form", ["dense", "bitmap"])
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("size", [1, 3, 7, 8, 9, 17])
def test_both_forms_hold_every_width_and_size(
    form: Literal["dense", "bitmap"], bits: int, size: int
) -> None:
    """`unpack` reads what the layout says, whichever form would have been the smaller."""
    rng = np.random.default_rng(size)
    mask = rng.random(size) < 0.6 if form == "bitmap" else np.ones(size, bool)
    limit = 2 ** (min(bits, 8) - 1) - 1
    codes = np.where(mask, rng.integers(-limit, limit + 1, size), 0)
    values = codes.astype(np.float32 if bits == FLOAT_BITS else np.int8)
    kept = values[mask]
    packed = naive_pack(kept.tolist(), bits) if bits < FLOAT_BITS else b""
    stored = {"w": kept if bits == FLOAT_BITS else np.frombuffer(packed, np.uint8)}
    if form == "bitmap":
        bitmap = naive_pack([int(m) for m in mask], 1)
        stored["w.bitmap"] = np.frombuffer(bitmap, np.uint8)
    how = Layout(form=form, bits=bits, shape=(size,), stored=int(mask.sum()))
    assert how.nbytes == sum(array.nbytes for array in stored.values())
    found = unpack(stored, {"w": how}, 0.0)["w"]
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


@given(st.data(), st.integers(2, 8))
def test_codes_lie_bit_by_bit_in_the_documented_order(data: st.DataObject, bits: int) -> None:
    limit = 2 ** (bits - 1) - 1
    codes = data.draw(st.lists(st.integers(-limit, limit), min_size=1, max_size=40))
    array = np.array(codes, np.int8)
    recipe, sites = Recipe(weight_bits=bits), {"w": site(array.shape)}
    packed = pack({"w": array}, {"w": np.ones(array.shape, bool)}, sites, recipe)["w"]
    assert packed.dtype == np.uint8
    assert packed.tobytes() == naive_pack(codes, bits)
    assert naive_unpack(packed.tobytes(), bits, len(codes)) == codes


def test_a_packed_example_by_hand() -> None:
    """3 bits: 1 = 001, -1 = 111, -3 = 101, 2 = 010; the first byte is 01|111|001."""
    sites = {"w": site((4,))}
    codes = np.array([1, -1, -3, 2], np.int8)
    packed = pack({"w": codes}, {"w": np.ones(4, bool)}, sites, Recipe(weight_bits=3))["w"]
    assert [f"{byte:08b}" for byte in packed.tolist()] == ["01111001", "00000101"]


def test_a_bitmap_by_hand() -> None:
    """Weights 0 and 9 of 10 stay: bits 0 of byte 0 and 1 of byte 1."""
    weights = np.zeros(10, np.float32)
    weights[[0, 9]] = [0.5, -2.0]
    sites = {"w": site((10,))}
    stored = pack({"w": weights}, {"w": weights != 0}, sites, Recipe(sparsity=0.8))
    np.testing.assert_array_equal(stored["w.bitmap"], [1, 2])
    np.testing.assert_array_equal(stored["w"], np.array([0.5, -2.0], np.float32))


@given(st.integers(1, 4000), st.sampled_from(WIDTHS), st.floats(0, 0.99))
def test_the_smaller_form_is_taken(size: int, bits: int, sparsity: float) -> None:
    recipe = Recipe(sparsity=sparsity, weight_bits=bits)
    found = layout(site((size,)), recipe)
    kept = size - min(size - 1, round(size * sparsity))
    dense, bitmap = -(-size * bits // 8), -(-size // 8) + -(-kept * bits // 8)
    assert found.nbytes == min(dense, bitmap)
    assert found.form == ("bitmap" if bitmap < dense else "dense")
    assert found.stored == (kept if found.form == "bitmap" else size)


# Whole models -------------------------------------------------------------------------------------


def mlp() -> tuple[Model, jax.ShapeDtypeStruct]:
    example = jax.ShapeDtypeStruct((2, 30), jnp.float32)
    return build_model(breast_cancer, {"width": 5, "depth": 1}, example), example


def cnn() -> tuple[Model, jax.ShapeDtypeStruct]:
    example = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)
    return build_model(mnist5k, {"channels": 3, "depth": 2, "hidden": 7}, example), example


@pytest.fixture(scope="module", params=[mlp, cnn], ids=["mlp", "cnn"])
def deployed(request: pytest.FixtureRequest) -> tuple[dict[str, Site], Any, Any]:
    """The sites, parameters and state of a model with random weights."""
    model, example = request.param()
    shapes, state = jax.eval_shape(model.init, jax.random.key(0))
    assert state == {}
    rng = np.random.default_rng(0)
    params = {n: jnp.asarray(rng.normal(size=s.shape), s.dtype) for n, s in shapes.items()}
    return find_sites(model.predict, params, state, example), params, state


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_counted_bytes_are_the_stored_ones(
    deployed: tuple[dict[str, Site], Any, Any], recipe: Recipe
) -> None:
    sites, params, state = deployed
    ranges = {name: jnp.float32(1.5) for name in sites}
    arrays = compress(recipe, sites, params, state, ranges)
    kept = masks(sites, params, recipe.pruned(sites))
    stored = pack(arrays, kept, sites, recipe)
    shapes = deployed_shapes(recipe, sites, params, state)
    assert stored_bytes(sites, recipe, shapes) == sum(a.nbytes for a in stored.values())

    limit = float(largest_code(recipe.activation_bits)) if recipe.inputs_quantized else 0.0
    found = unpack(stored, {name: layout(s, recipe) for name, s in sites.items()}, limit)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_bytes_of_a_small_model_by_hand() -> None:
    """30 x 4 weights and 4 biases, then 4 x 2 and 2, at 4 bits with 8-bit inputs."""
    example = jax.ShapeDtypeStruct((2, 30), jnp.float32)
    model = build_model(breast_cancer, {"width": 4, "depth": 1}, example)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    sites = find_sites(model.predict, params, state, example)
    for recipe, expected in [
        (Recipe(), 4 * (120 + 4 + 8 + 2)),
        (Recipe(weight_bits=4, activation_bits=8), (60 + 4) + 4 * (4 + 2) + 4 * (4 + 2) + 2 * 4),
        (Recipe(sparsity=0.5), (15 + 4 * 60) + (1 + 4 * 4) + 4 * (4 + 2)),
    ]:
        shapes = deployed_shapes(recipe, sites, params, state)
        assert stored_bytes(sites, recipe, shapes) == expected
