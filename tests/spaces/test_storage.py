"""The stored form of a deployed model, to the byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from paretax.spaces.compression import compress, deployed_shapes, grid, widths_of
from paretax.spaces.quantization import FLOAT_BITS, PRECISIONS, largest_code
from paretax.spaces.recipe import Recipe, Treatment, masks
from paretax.spaces.sites import Site, find_sites
from paretax.spaces.storage import Layout, layout, pack, stored_bytes, unpack
from paretax.tasks import build_model
from paretax.tasks.breast_cancer import task as breast_cancer
from paretax.tasks.mnist5k import task as mnist5k

if TYPE_CHECKING:
    from tests.spaces.conftest import Example

WIDTHS = (*range(2, 9), FLOAT_BITS)
FORMATS = {"float32": 32, "bfloat16": 16, "float16": 16, "float8": 8}
RAW = {32: np.float32, 16: np.uint16, 8: np.uint8}


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


def only(**treatment: Any) -> Recipe:
    """What is done to a single site."""
    return Recipe(treatments={"w": Treatment(**treatment)})


@st.composite
def stored_weights(draw: st.DrawFn) -> tuple[Recipe, np.ndarray, np.ndarray]:
    """A recipe, and deployed weights with the mask that it asks for."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    bits = draw(st.sampled_from(WIDTHS))
    precision = draw(st.sampled_from(list(FORMATS))) if bits == FLOAT_BITS else "float32"
    recipe = only(sparsity=draw(st.floats(0, 0.99)), weight_bits=bits, precision=precision)
    where = site(shape)
    order = draw(st.permutations(range(where.size)))
    mask = np.ones(where.size, bool)
    mask[list(order[: recipe.pruned({"w": where})["w"]])] = False
    if bits == FLOAT_BITS:
        numbers = st.floats(-400, 400, width=32)
        values = np.array(draw(st.lists(numbers, min_size=where.size, max_size=where.size)))
        values = values.astype(jnp.dtype(PRECISIONS[precision]))
    else:
        limit = 2 ** (bits - 1) - 1
        codes = st.integers(-limit, limit)
        values = np.array(draw(st.lists(codes, min_size=where.size, max_size=where.size)), np.int8)
    return recipe, np.where(mask, values, np.zeros((), values.dtype)).reshape(shape), mask


def same(found: np.ndarray, expected: np.ndarray) -> None:
    """To the bit."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    raw = np.dtype(f"u{expected.dtype.itemsize}")
    np.testing.assert_array_equal(
        np.ascontiguousarray(found).view(raw), np.ascontiguousarray(expected).view(raw)
    )


@given(stored_weights())
def test_what_is_packed_comes_back(case: tuple[Recipe, np.ndarray, np.ndarray]) -> None:
    recipe, weights, mask = case
    sites = {"w": site(weights.shape)}
    stored = pack({"w": weights}, {"w": mask.reshape(weights.shape)}, sites, recipe)
    form = layout(sites["w"], recipe.treatments["w"])
    assert sum(array.nbytes for array in stored.values()) == form.nbytes
    found = unpack(stored, {"w": form}, {})
    assert list(found) == ["w"]
    same(found["w"], weights)


@pytest.mark.parametrize("form", ["dense", "bitmap"])
@pytest.mark.parametrize("number", [*range(2, 9), *FORMATS])
@pytest.mark.parametrize("size", [1, 3, 7, 8, 9, 17])
def test_both_forms_hold_every_width_and_size(
    form: Literal["dense", "bitmap"], number: int | str, size: int
) -> None:
    """`unpack` reads what the layout says, whichever form would have been the smaller."""
    rng = np.random.default_rng(size)
    mask = rng.random(size) < 0.6 if form == "bitmap" else np.ones(size, bool)
    if isinstance(number, int):
        limit = 2 ** (number - 1) - 1
        values = np.where(mask, rng.integers(-limit, limit + 1, size), 0).astype(np.int8)
        kept = np.frombuffer(naive_pack(values[mask].tolist(), number), np.uint8)
        bits, kind = number, "int"
    else:
        dtype = jnp.dtype(PRECISIONS[number])
        values = np.where(mask, rng.normal(0, 9, size), 0).astype(dtype)
        bits, kind = FORMATS[number], number
        kept = values[mask].view(RAW[bits])
    stored = {"w": kept}
    if form == "bitmap":
        bitmap = naive_pack([int(m) for m in mask], 1)
        stored["w.bitmap"] = np.frombuffer(bitmap, np.uint8)
    how = Layout(form=form, number=kind, bits=bits, shape=(size,), stored=int(mask.sum()))
    assert how.nbytes == sum(array.nbytes for array in stored.values())
    same(unpack(stored, {"w": how}, {})["w"], values)


@given(st.data(), st.integers(2, 8))
def test_codes_lie_bit_by_bit_in_the_documented_order(data: st.DataObject, bits: int) -> None:
    limit = 2 ** (bits - 1) - 1
    codes = data.draw(st.lists(st.integers(-limit, limit), min_size=1, max_size=40))
    array = np.array(codes, np.int8)
    recipe, sites = only(weight_bits=bits), {"w": site(array.shape)}
    packed = pack({"w": array}, {"w": np.ones(array.shape, bool)}, sites, recipe)["w"]
    assert packed.dtype == np.uint8
    assert packed.size == (len(codes) * bits + 7) // 8  # no byte a weight
    assert packed.tobytes() == naive_pack(codes, bits)
    assert naive_unpack(packed.tobytes(), bits, len(codes)) == codes


def test_a_packed_example_by_hand() -> None:
    """3 bits: 1 = 001, -1 = 111, -3 = 101, 2 = 010; the first byte is 01|111|001."""
    sites = {"w": site((4,))}
    codes = np.array([1, -1, -3, 2], np.int8)
    packed = pack({"w": codes}, {"w": np.ones(4, bool)}, sites, only(weight_bits=3))["w"]
    assert [f"{byte:08b}" for byte in packed.tolist()] == ["01111001", "00000101"]


def test_a_bitmap_by_hand() -> None:
    """Weights 0 and 9 of 10 stay: bits 0 of byte 0 and 1 of byte 1."""
    weights = np.zeros(10, np.float32)
    weights[[0, 9]] = [0.5, -2.0]
    sites = {"w": site((10,))}
    stored = pack({"w": weights}, {"w": weights != 0}, sites, only(sparsity=0.8))
    np.testing.assert_array_equal(stored["w.bitmap"], [1, 2])
    np.testing.assert_array_equal(stored["w"], np.array([0.5, -2.0], np.float32))


@pytest.mark.parametrize("precision", FORMATS)
def test_floating_point_formats_by_hand(precision: str) -> None:
    """One is 0x3F80, 0x3C00 and 0x38 in the smaller ones."""
    weights = np.array([1.0, -1.0], jnp.dtype(PRECISIONS[precision]))
    recipe, sites = only(precision=precision), {"w": site((2,))}
    stored = pack({"w": weights}, {"w": np.ones(2, bool)}, sites, recipe)["w"]
    expected: dict[str, Any] = {
        "float32": np.array([1, -1], np.float32),
        "bfloat16": np.array([0x3F80, 0xBF80], np.uint16),
        "float16": np.array([0x3C00, 0xBC00], np.uint16),
        "float8": np.array([0x38, 0xB8], np.uint8),
    }
    assert stored.dtype == expected[precision].dtype
    np.testing.assert_array_equal(stored, expected[precision])


@given(st.integers(1, 4000), st.sampled_from([*range(2, 9), *FORMATS]), st.floats(0, 0.99))
def test_the_smaller_form_is_taken(size: int, number: int | str, sparsity: float) -> None:
    if isinstance(number, int):
        treatment, bits = Treatment(sparsity=sparsity, weight_bits=number), number
    else:
        treatment, bits = Treatment(sparsity=sparsity, precision=number), FORMATS[number]
    found = layout(site((size,)), treatment)
    kept = size - min(size - 1, round(size * sparsity))
    dense, bitmap = -(-size * bits // 8), -(-size // 8) + -(-kept * bits // 8)
    assert found.bits == bits
    assert found.nbytes == min(dense, bitmap)
    assert found.form == ("bitmap" if bitmap < dense else "dense")
    assert found.stored == (kept if found.form == "bitmap" else size)


def test_what_training_pruned_goes_before_what_was_asked_for() -> None:
    where, treatment = site((16,)), Treatment(sparsity=0.5)
    assert layout(where, treatment).nbytes == 2 + 4 * 8
    assert layout(where, treatment, pruned=15).nbytes == 2 + 4
    assert layout(where, treatment, pruned=0).nbytes == 64
    assert layout(where, Treatment(pattern=(2, 4), weight_bits=8)).nbytes == 2 + 8


# Whole models -------------------------------------------------------------------------------------

Deployed = tuple[dict[str, Site], Any, Any]


def built_in(task: Any, config: dict[str, Any], shape: tuple[int, ...]) -> Deployed:
    """The sites, parameters and state of a task's model with random weights."""
    example = jax.ShapeDtypeStruct(shape, jnp.float32)
    model = build_model(task, config, example)
    shapes, state = jax.eval_shape(model.init, jax.random.key(0))
    assert state == {}
    rng = np.random.default_rng(0)
    params = {n: jnp.asarray(rng.normal(size=s.shape), s.dtype) for n, s in shapes.items()}
    return find_sites(model.predict, params, state, example), params, state


@pytest.fixture(scope="module", params=["mlp", "cnn", "stack"])
def deployed(request: pytest.FixtureRequest, example: Callable[[str], Example]) -> Deployed:
    if request.param == "mlp":
        return built_in(breast_cancer, {"width": 5, "depth": 1}, (2, 30))
    if request.param == "cnn":
        return built_in(mnist5k, {"channels": 3, "depth": 2, "hidden": 7}, (2, 28, 28, 1))
    model = example("stack-linen")
    sites = find_sites(model.predict, model.params, model.state, model.inputs)
    return sites, model.params, model.state


def stored_form(
    deployed: Deployed, recipe: Recipe
) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """The deployed arrays, their masks, and what is stored."""
    sites, params, state = deployed
    ranges = {name: jnp.full(s.shape[: s.stack], 1.5) for name, s in sites.items()}
    magnitudes = {n: jnp.abs(params[n]) for n in sites}
    kept = masks(recipe, sites, magnitudes, recipe.pruned(sites))
    params = params | {n: jnp.where(kept[n], params[n], 0) for n in sites}
    steps = grid(recipe, sites, params, ranges, widths_of(recipe), {})
    arrays = compress(recipe, sites, params, state, steps)
    return arrays, kept, pack(arrays, kept, sites, recipe)


CONFIGS: list[dict[str, Any]] = [
    *({"sparsity": s} for s in (0.0, 0.1, 0.34, 0.9)),
    *(
        {"sparsity": s, "weight_bits": w, "activation_bits": a}
        for s, w, a in [(0.0, 2, 8), (0.9, 2, 8), (0.34, 5, 4), (0.1, 7, 6), (0.34, 8, 8)]
    ),
    {"sparsity": 0.34, "weight_bits": 3},
    {"sparsity": 0.34, "activation_bits": 8},
    {"weight_bits@first": 3, "weight_bits": 8, "activation_bits@last": 5, "sparsity@last": 0.8},
    {"precision": "bfloat16", "sparsity": 0.5},
    {"precision": "float16"},
    {"precision": "float8", "sparsity@first": 0.5, "sparsity": 0.9},
    {"precision": "float8", "weight_bits@last": 4, "activation_bits@last": 8},
    {"weight_bits": 4, "weight_scales": "tensor", "activation_bits": 8},
    {"weight_bits": 4, "weight_scales": "group", "group_size": 2},
    {"sparsity": 0.6, "pruning_scope": "global", "weight_bits": 4},
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_counted_bytes_are_the_stored_ones(deployed: Deployed, config: dict[str, Any]) -> None:
    sites, params, state = deployed
    recipe = Recipe.of(config, sites)
    arrays, kept, stored = stored_form(deployed, recipe)
    pruned = {n: int((~mask).sum()) for n, mask in kept.items()}
    if recipe.scope == "layer":
        assert pruned == recipe.pruned(sites)
    shapes = deployed_shapes(recipe, sites, params, state)
    counts = None if recipe.scope == "layer" else pruned
    assert stored_bytes(sites, recipe, shapes, counts) == sum(a.nbytes for a in stored.values())

    layouts = {n: layout(s, recipe.treatments[n], pruned[n]) for n, s in sites.items()}
    limits = {
        n: 448.0 if t.precision == "float8" else float(largest_code(t.activation_bits))
        for n, t in recipe.treatments.items()
    }
    found = unpack(stored, layouts, limits)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        same(found[name], np.asarray(array))


def test_patterns_are_stored_under_a_bitmap() -> None:
    """The first layer's 30 x 4 weights, of which each pair of inputs keeps one."""
    deployed = built_in(breast_cancer, {"width": 4, "depth": 1}, (2, 30))
    sites, params, state = deployed
    name = next(iter(sites))
    recipe = Recipe.of({"pruning_pattern@first": "1:2", "weight_bits": 8}, sites)
    arrays, _, stored = stored_form(deployed, recipe)
    assert stored[name].nbytes == 60
    assert stored[f"{name}.bitmap"].nbytes == 15
    assert set(stored) == {*arrays, f"{name}.bitmap"}
    shapes = deployed_shapes(recipe, sites, params, state)
    assert stored_bytes(sites, recipe, shapes) == sum(a.nbytes for a in stored.values())


def test_bytes_of_a_small_model_by_hand() -> None:
    """30 x 4 weights and 4 biases, then 4 x 2 and 2."""
    sites, params, state = built_in(breast_cancer, {"width": 4, "depth": 1}, (2, 30))
    biases = 4 * (4 + 2)
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, 4 * (120 + 8) + biases),
        ({"weight_bits": 4, "activation_bits": 8}, (60 + 4) + biases + 4 * (4 + 2) + 2 * 4),
        ({"weight_bits": 3}, (45 + 3) + biases + 4 * (4 + 2)),
        ({"weight_bits": 2, "weight_scales": "tensor"}, (30 + 2) + biases + 4 * 2),
        (
            {"weight_bits": 8, "weight_scales": "group", "group_size": 10},
            (120 + 8) + biases + 4 * (3 * 4 + 2),
        ),
        ({"sparsity": 0.5}, (15 + 4 * 60) + (1 + 4 * 4) + biases),
        ({"precision": "bfloat16"}, 2 * (120 + 8) + biases),
        ({"precision": "float8"}, (120 + 8) + biases + 4 * (4 + 2) + 2 * 4),
    ]
    for config, expected in cases:
        recipe = Recipe.of(config, sites)
        shapes = deployed_shapes(recipe, sites, params, state)
        assert stored_bytes(sites, recipe, shapes) == expected, config
