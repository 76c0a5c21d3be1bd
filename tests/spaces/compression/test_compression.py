"""Simulating and deploying one model: the arrays of the naive version, and the same outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.spaces.compression import deployed_shapes, grid, simulate, widths_of
from paretax.spaces.recipe import Recipe

if TYPE_CHECKING:
    from tests.conftest import Net
    from tests.spaces.compression.conftest import Both, Programs

WIDTHS = (2, 3, 4, 5, 6, 7, 8, 32)
ONE = np.float32(1)
close = np.testing.assert_allclose


# The naive version --------------------------------------------------------------------------------


def naive_codes(
    weight: np.ndarray, axes: tuple[int, ...], bits: int, group: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Integers and steps, one scale after the other."""
    limit = 2 ** (bits - 1) - 1
    spans = [n if i in axes else 1 for i, n in enumerate(weight.shape)]
    if group is not None:
        spans[group[0]] = group[1]
    found = np.zeros(weight.shape, np.int8)
    steps = np.zeros([n // s for n, s in zip(weight.shape, spans, strict=True)], np.float32)
    for place in np.ndindex(*steps.shape):
        here = tuple(slice(p * s, (p + 1) * s) for p, s in zip(place, spans, strict=True))
        largest = np.abs(weight[here]).max()
        step = largest * (ONE / np.float32(limit)) if largest > 0 else ONE
        steps[place] = step
        found[here] = np.clip(np.rint(weight[here] * (ONE / step)), -limit, limit)
    return found, steps


def naive_inference(programs: Programs, recipe: Recipe) -> np.ndarray:
    """The pair model over whole numbers, written out."""
    params = {n: np.asarray(a) for n, a in programs.params.items()}
    ranges = {n: np.asarray(a) for n, a in programs.ranges(recipe).items()}

    def product(x: np.ndarray, name: str) -> np.ndarray:
        treatment = recipe.treatments[name]
        weight = programs.naive_pruned(name, treatment.sparsity)
        w_step: np.ndarray = np.ones((1, 1), np.float32)
        x_step = np.ones(1, np.float32)
        if treatment.weights_quantized:
            weight, w_step = naive_codes(
                weight, treatment.shared, treatment.weight_bits, treatment.group
            )
        if treatment.inputs_quantized:
            limit = 2 ** (treatment.activation_bits - 1) - 1
            x_step = ranges[name].reshape(1) * (ONE / np.float32(limit))
            x = np.clip(np.rint(x * (ONE / x_step)), -limit, limit).astype(np.int64)
        weight = weight.astype(np.int64 if treatment.weights_quantized else np.float64)
        length = len(weight) // len(w_step)
        y: np.ndarray = np.zeros((), np.float64)
        for i, step in enumerate(w_step):
            part = slice(i * length, (i + 1) * length)
            y = y + (x[:, part] @ weight[part]) * (step * x_step)
        return np.asarray(y, np.float32)

    x = np.asarray(programs.inputs).reshape(-1, 16)
    return product(np.maximum(product(x, "first/w") + params["first/b"], 0), "out")


# Arrays -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.95])
@pytest.mark.parametrize("weight_bits", WIDTHS)
def test_deployed_arrays_are_those_of_the_naive_grid(
    nnx_programs: Programs, both: Both, weight_bits: int, sparsity: float
) -> None:
    """Bit for bit."""
    programs = nnx_programs
    recipe = programs.recipe(both(weight_bits, 5, sparsity=sparsity))
    arrays = programs.arrays(recipe)
    ranges = programs.ranges(recipe)
    for name, site in programs.sites.items():
        expected = programs.naive_pruned(name, sparsity)
        if weight_bits < 32:
            expected, step = naive_codes(expected, site.axes, weight_bits)
            np.testing.assert_array_equal(arrays[f"{name}.scale"], step)
        np.testing.assert_array_equal(arrays[name], expected)
        expected_input = [ranges[name] * (ONE / np.float32(15)), 15]
        np.testing.assert_array_equal(arrays[f"{name}.input"], expected_input)
    for name, array in {**programs.params, **programs.state}.items():
        if name not in programs.sites:
            np.testing.assert_array_equal(arrays[name], array)


@pytest.mark.parametrize("scales", ["channel", "tensor", "group"])
@pytest.mark.parametrize("weight_bits", [2, 5, 8])
def test_scales_of_every_form_are_those_of_the_naive_grid(
    stack_programs: Programs, scales: str, weight_bits: int
) -> None:
    """Stacks have scales of their own for each layer, embeddings for each feature."""
    programs = stack_programs
    config = {"weight_bits": weight_bits, "weight_scales": scales, "group_size": 4}
    recipe = programs.recipe(config)
    arrays = programs.arrays(recipe)
    for name, site in programs.sites.items():
        axes = site.axes if scales != "tensor" else tuple(range(site.stack, len(site.shape)))
        group = recipe.treatments[name].group
        assert (group is not None) == (
            scales == "group" and site.kind == "dot" and site.shape[site.inner_axis] > 4
        )
        weight = np.asarray(programs.params[name])
        expected, step = naive_codes(weight, axes, weight_bits, group)
        np.testing.assert_array_equal(arrays[f"{name}.scale"], step)
        np.testing.assert_array_equal(arrays[name], expected)


# Agreement ----------------------------------------------------------------------------------------


def check_agreement(programs: Programs, recipe: Recipe, rtol: float = 1e-5) -> None:
    simulated, deployed = programs.simulated(recipe), programs.deployed(recipe)
    expected = jax.eval_shape(programs.predict, programs.params, programs.state, programs.inputs)
    assert simulated.dtype == deployed.dtype == expected.dtype
    assert simulated.shape == deployed.shape == expected.shape
    one, other = (np.asarray(a, np.float32) for a in (simulated, deployed))
    assert np.isfinite(one).all()
    np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol, err_msg=f"{recipe}")


@pytest.mark.parametrize("weight_bits", WIDTHS)
def test_simulated_and_deployed_outputs_agree(
    nnx_programs: Programs, both: Both, weight_bits: int
) -> None:
    for bits in WIDTHS:
        recipe = nnx_programs.recipe(both(weight_bits, bits, sparsity=0.4))
        check_agreement(nnx_programs, recipe)


@pytest.mark.parametrize("weight_bits", range(2, 9))
def test_they_are_equal_where_all_is_whole(
    pair_programs: Programs, both: Both, weight_bits: int
) -> None:
    """Exactly: the sums stay below 2^24."""
    for bits in range(2, 9):
        recipe = pair_programs.recipe(both(weight_bits, bits))
        found = pair_programs.simulated(recipe), pair_programs.deployed(recipe)
        np.testing.assert_array_equal(*found, err_msg=f"{weight_bits} and {bits}")


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.7, 0.95])
@pytest.mark.parametrize("bits", [(8, 8), (2, 5), (4, 32), (32, 4)])
def test_they_agree_at_every_sparsity(
    nnx_programs: Programs, both: Both, bits: tuple[int, int], sparsity: float
) -> None:
    check_agreement(nnx_programs, nnx_programs.recipe(both(*bits, sparsity=sparsity)))


@pytest.mark.parametrize("bits", [(8, 8), (3, 4)])
def test_they_agree_for_models_of_every_kind(
    programs: Programs, both: Both, bits: tuple[int, int]
) -> None:
    check_agreement(programs, programs.recipe(both(*bits, sparsity=0.3)))


PARTLY: dict[str, dict[str, Any]] = {
    "some sites only": {"weight_bits@attention": 4, "activation_bits@attention": 8},
    "one side here, the other there": {"weight_bits@first": 3, "activation_bits@last": 5},
    "groups of weights alone": {"weight_bits": 4, "weight_scales": "group", "group_size": 2},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "float8": {"precision": "float8"},
    "float8 in groups": {"precision": "float8", "weight_scales": "group", "group_size": 2},
    "float8 of tensors": {"precision": "float8", "weight_scales": "tensor"},
    "all formats": {
        "precision@attention": "float8",
        "precision": "bfloat16",
        "weight_bits@last": 4,
        "activation_bits@last": 6,
    },
}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *(("pair", how) for how in PARTLY if "attention" not in str(PARTLY[how])),
        *(("nnx", how) for how in ("some sites only", "float8", "all formats")),
        *(("stack", how) for how in ("float8 in groups", "all formats")),
    ],
)
def test_they_agree_where_not_all_is_whole(
    request: pytest.FixtureRequest, name: str, how: str
) -> None:
    programs: Programs = request.getfixturevalue(f"{name}_programs")
    check_agreement(programs, programs.recipe(PARTLY[how]))


@pytest.mark.parametrize("how", PARTLY)
def test_shapes_and_dtypes_where_not_all_is_whole(nnx_programs: Programs, how: str) -> None:
    programs = nnx_programs
    recipe = programs.recipe(PARTLY[how])
    arrays = programs.arrays(recipe)
    shapes = deployed_shapes(recipe, programs.sites, programs.params, programs.state)
    assert {n: (a.shape, a.dtype) for n, a in arrays.items()} == {
        n: (a.shape, a.dtype) for n, a in shapes.items()
    }
    for name, treatment in recipe.treatments.items():
        dtype = {"float8": "float8_e4m3fn"}.get(treatment.precision, treatment.precision)
        assert arrays[name].dtype == ("int8" if treatment.weights_quantized else dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_agree_for_a_model_in_lower_precision(
    bfloat16_net: Net, both: Both, new_programs: type[Programs], dtype: str
) -> None:
    """Whether it casts its weights, or has them in that precision."""
    params = {n: a.astype(dtype) for n, a in bfloat16_net.params.items()}
    predict, state, inputs = bfloat16_net.model.predict, bfloat16_net.state, bfloat16_net.inputs
    programs = new_programs.of(predict, params, state, inputs)
    for bits in ((8, 8), (5, 32)):
        check_agreement(programs, programs.recipe(both(*bits, sparsity=0.3)))


@pytest.mark.parametrize("weight_bits", WIDTHS)
def test_outputs_are_those_of_naive_inference(
    pair_programs: Programs, both: Both, weight_bits: int
) -> None:
    for bits in WIDTHS:
        recipe = pair_programs.recipe(both(weight_bits, bits, sparsity=0.3))
        expected = naive_inference(pair_programs, recipe)
        for found in (pair_programs.deployed(recipe), pair_programs.simulated(recipe)):
            close(found, expected, rtol=1e-5, atol=1e-5, err_msg=f"{recipe}")


@pytest.mark.parametrize("scales", ["tensor", "group"])
@pytest.mark.parametrize("bits", [(8, 8), (2, 5), (4, 32)])
def test_naive_inference_with_scales_of_other_forms(
    pair_programs: Programs, both: Both, scales: str, bits: tuple[int, int]
) -> None:
    recipe = pair_programs.recipe(both(*bits, weight_scales=scales, group_size=2))
    expected = naive_inference(pair_programs, recipe)
    for found in (pair_programs.deployed(recipe), pair_programs.simulated(recipe)):
        close(found, expected, rtol=1e-5, atol=1e-5)


def test_without_a_recipe_the_model_is_as_it_was(
    nnx_programs: Programs, stack_programs: Programs
) -> None:
    for programs in (nnx_programs, stack_programs):
        expected = jax.jit(programs.predict)(programs.params, programs.state, programs.inputs)
        recipe = Recipe.plain(programs.sites)
        for found in (programs.simulated(recipe), programs.deployed(recipe)):
            close(found, expected, rtol=1e-5, atol=1e-5)


def test_more_bits_are_closer_to_the_float_model(nnx_programs: Programs, both: Both) -> None:
    programs = nnx_programs
    expected = jax.jit(programs.predict)(programs.params, programs.state, programs.inputs)

    def error(config: Mapping[str, Any]) -> float:
        return float(jnp.abs(programs.deployed(programs.recipe(config)) - expected).mean())

    assert error(both(8, 8)) < error(both(5, 5)) < error(both(2, 2))
    assert error(both(8, 8)) < 0.02
    formats = [error({"precision": p}) for p in ("float16", "bfloat16", "float8")]
    assert formats == sorted(formats)
    assert 0 < formats[0] < 1e-3
    assert formats[-1] < 0.2


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_group_scales_of_convolutions_in_every_layout(
    both: Both, new_programs: type[Programs], layout: str, groups: int
) -> None:
    """Groups run along the input channels, and not at all where channels are in feature groups."""
    rng = np.random.default_rng(0)
    kernel = {"NHWC": "HWIO", "NCHW": "OIHW"}[layout]
    sizes = {"H": 3, "W": 2, "I": 8 // groups, "O": 4} | {"N": 2, "C": 8}
    w = jnp.asarray(rng.normal(size=[sizes[c] for c in kernel]), jnp.float32)
    x = jnp.asarray(rng.normal(size=[{**sizes, "H": 6, "W": 5}[c] for c in layout]), jnp.float32)

    def predict(p: Any, s: Any, x: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x,
            p["w"],
            (1, 1),
            "SAME",
            dimension_numbers=(layout, kernel, layout),
            feature_group_count=groups,
        )

    programs = new_programs.of(predict, {"w": w}, {}, x)
    recipe = programs.recipe(both(8, 8, weight_scales="group", group_size=2))
    assert recipe.treatments["w"].group == ((kernel.index("I"), 2) if groups == 1 else None)
    expected = predict({"w": w}, {}, x)
    for found in (programs.simulated(recipe), programs.deployed(recipe)):
        close(found, expected, atol=0.02 * float(jnp.abs(expected).max()))
    np.testing.assert_array_equal(programs.simulated(recipe), programs.deployed(recipe))


# What is traced -----------------------------------------------------------------------------------


def test_one_simulation_serves_every_recipe(
    pair_net: Net, both: Both, new_programs: type[Programs]
) -> None:
    programs = new_programs.of_net(pair_net)
    traces: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def traced(*args: Any) -> Any:
            traces.append(name)
            return function(*args)

        return jax.jit(traced)

    sites, plain = programs.sites, Recipe.plain(programs.sites)
    run = counted("simulate", simulate(programs.predict, sites, plain))
    make = counted("grid", lambda p, r, w: grid(plain, sites, p, r, w, {}))
    outputs = []
    for config in (
        both(8, 8),
        both(2, 32, sparsity=0.5),
        both(32, 3, sparsity=0.9),
        {"weight_bits@first": 2, "activation_bits@last": 5},
    ):
        recipe = programs.recipe(config)
        params = programs.pruned(recipe)
        steps = make(params, programs.ranges(recipe), widths_of(recipe))
        outputs.append(run(params, programs.state, programs.inputs, steps))
        close(outputs[-1], programs.deployed(recipe), rtol=1e-5, atol=1e-5)
    assert traces == ["grid", "simulate"]
    for i, one in enumerate(outputs):
        assert not any(np.allclose(one, other) for other in outputs[i + 1 :])


def test_a_batch_of_recipes_is_the_recipes_one_by_one(pair_programs: Programs, both: Both) -> None:
    programs = pair_programs
    cases = ((8, 8, 0.0), (3, 8, 0.5), (32, 4, 0.2), (6, 32, 0.7))
    recipes = [programs.recipe(both(w, a, sparsity=s)) for w, a, s in cases]

    def stack(items: list[Any]) -> Any:
        return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(v) for v in leaves]), *items)

    run = simulate(programs.predict, programs.sites, recipes[0])
    outputs = jax.jit(jax.vmap(run, in_axes=(0, None, None, 0)))(
        stack([programs.pruned(r) for r in recipes]),
        programs.state,
        programs.inputs,
        stack([programs.grid(r) for r in recipes]),
    )
    expected = np.stack([programs.deployed(r) for r in recipes])
    close(outputs, expected, rtol=1e-5, atol=1e-5)
