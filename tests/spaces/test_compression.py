"""Observing, simulating and deploying one model: the same integers in each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.spaces.compression import (
    Recipe,
    compress,
    deploy,
    deployed_shapes,
    masks,
    observe,
    simulate,
)
from paretax.spaces.sites import Site, find_sites

if TYPE_CHECKING:
    from tests.conftest import Net

WIDTHS = (2, 3, 4, 5, 6, 7, 8, 32)
ONE = np.float32(1)


@dataclass(frozen=True, kw_only=True)
class Programs:
    """The programs of one model, compiled once, and the ranges of its inputs."""

    net: Net
    sites: Mapping[str, Site]
    observe: Callable[..., Any]
    simulate: Callable[..., Any]
    deploy: Mapping[tuple[bool, bool], Callable[..., Any]]

    @classmethod
    def of(cls, net: Net) -> Programs:
        predict = net.model.predict
        sites = find_sites(predict, net.params, net.state, net.inputs)
        names = tuple(net.state)
        forms = {
            (w < 32, a < 32): Recipe(weight_bits=w, activation_bits=a)
            for w in (8, 32)
            for a in (8, 32)
        }
        return cls(
            net=net,
            sites=sites,
            observe=jax.jit(observe(predict, sites)),
            simulate=jax.jit(simulate(predict, sites)),
            deploy={k: jax.jit(deploy(predict, sites, r, names)) for k, r in forms.items()},
        )

    def ranges(self, recipe: Recipe) -> dict[str, jax.Array]:
        net = self.net
        found = self.observe(net.params, net.state, net.inputs, recipe.pruned(self.sites))
        assert isinstance(found, dict)
        return found

    def compressed(self, recipe: Recipe) -> dict[str, jax.Array]:
        return compress(recipe, self.sites, self.net.params, self.net.state, self.ranges(recipe))

    def simulated(self, recipe: Recipe) -> Any:
        net = self.net
        bits = (recipe.weight_bits, recipe.activation_bits)
        pruned, ranges = recipe.pruned(self.sites), self.ranges(recipe)
        return self.simulate(net.params, net.state, net.inputs, pruned, ranges, *bits)

    def deployed(self, recipe: Recipe) -> Any:
        run = self.deploy[recipe.weights_quantized, recipe.inputs_quantized]
        return run(self.compressed(recipe), self.net.inputs)


@pytest.fixture(scope="module")
def nnx_programs(nnx_net: Net) -> Programs:
    return Programs.of(nnx_net)


@pytest.fixture(scope="module")
def linen_programs(linen_net: Net) -> Programs:
    return Programs.of(linen_net)


@pytest.fixture(scope="module")
def pair_programs(pair_net: Net) -> Programs:
    return Programs.of(pair_net)


@pytest.fixture(params=["nnx", "linen", "pair"])
def programs(request: pytest.FixtureRequest) -> Programs:
    """Those of a model of each kind."""
    found: Programs = request.getfixturevalue(f"{request.param}_programs")
    return found


# The naive version --------------------------------------------------------------------------------


def naive_pruned(weight: np.ndarray, sparsity: float) -> np.ndarray:
    flat = weight.ravel().copy()
    count = min(flat.size - 1, round(flat.size * sparsity))
    for i in sorted(range(flat.size), key=lambda i: (abs(flat[i]), i))[:count]:
        flat[i] = 0
    return flat.reshape(weight.shape)


def naive_codes(
    weight: np.ndarray, axes: tuple[int, ...], bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Integers and steps, one output channel after the other."""
    limit = 2 ** (bits - 1) - 1
    found = np.zeros(weight.shape, np.int8)
    steps = np.zeros([1 if i in axes else n for i, n in enumerate(weight.shape)], np.float32)
    for channel in np.ndindex(*steps.shape):
        here = tuple(slice(None) if i in axes else k for i, k in enumerate(channel))
        largest = np.abs(weight[here]).max()
        step = largest * (ONE / np.float32(limit)) if largest > 0 else ONE
        steps[channel] = step
        found[here] = np.clip(np.rint(weight[here] * (ONE / step)), -limit, limit)
    return found, steps


def naive_inference(programs: Programs, recipe: Recipe) -> np.ndarray:
    """The pair model over whole numbers, written out."""
    net = programs.net
    params = {n: np.asarray(a) for n, a in net.params.items()}
    ranges = {n: np.asarray(a) for n, a in programs.ranges(recipe).items()}

    def product(x: np.ndarray, name: str) -> np.ndarray:
        weight = naive_pruned(params[name], recipe.sparsity)
        w_step: np.ndarray = np.ones(1, np.float32)
        x_step = w_step
        if recipe.weights_quantized:
            weight, w_step = naive_codes(weight, (0,), recipe.weight_bits)
        if recipe.inputs_quantized:
            limit = 2 ** (recipe.activation_bits - 1) - 1
            x_step = ranges[name].reshape(1) * (ONE / np.float32(limit))
            x = np.clip(np.rint(x * (ONE / x_step)), -limit, limit).astype(np.int64)
        y = x @ weight.astype(np.int64 if recipe.weights_quantized else np.float64)
        return np.asarray(y * (w_step * x_step), np.float32)

    x = np.asarray(net.inputs).reshape(-1, 16)
    return product(np.maximum(product(x, "first/w") + params["first/b"], 0), "out")


# Every recipe -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.95])
@pytest.mark.parametrize("weight_bits", WIDTHS)
def test_deployed_arrays_are_those_of_the_naive_grid(
    nnx_programs: Programs, weight_bits: int, sparsity: float
) -> None:
    """Bit for bit."""
    programs = nnx_programs
    recipe = Recipe(sparsity=sparsity, weight_bits=weight_bits, activation_bits=5)
    arrays = programs.compressed(recipe)
    ranges = programs.ranges(recipe)
    for name, site in programs.sites.items():
        expected = naive_pruned(np.asarray(programs.net.params[name]), sparsity)
        if weight_bits < 32:
            expected, step = naive_codes(expected, site.axes, weight_bits)
            np.testing.assert_array_equal(arrays[f"{name}.scale"], step)
        np.testing.assert_array_equal(arrays[name], expected)
        expected_input = [ranges[name] * (ONE / np.float32(15)), 15]
        np.testing.assert_array_equal(arrays[f"{name}.input"], expected_input)
    for name, array in {**programs.net.params, **programs.net.state}.items():
        if name not in programs.sites:
            np.testing.assert_array_equal(arrays[name], array)


def check_agreement(programs: Programs, recipe: Recipe) -> None:
    net = programs.net
    simulated, deployed = programs.simulated(recipe), programs.deployed(recipe)
    expected = jax.eval_shape(net.model.predict, net.params, net.state, net.inputs)
    assert simulated.dtype == deployed.dtype == expected.dtype
    assert simulated.shape == deployed.shape == expected.shape
    one, other = (np.asarray(a, np.float32) for a in (simulated, deployed))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5, err_msg=f"{recipe}")


@pytest.mark.parametrize("weight_bits", WIDTHS)
def test_simulated_and_deployed_outputs_agree(nnx_programs: Programs, weight_bits: int) -> None:
    for bits in WIDTHS:
        recipe = Recipe(sparsity=0.4, weight_bits=weight_bits, activation_bits=bits)
        check_agreement(nnx_programs, recipe)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.7, 0.95])
@pytest.mark.parametrize("bits", [(8, 8), (2, 5), (4, 32), (32, 4)])
def test_they_agree_at_every_sparsity(
    nnx_programs: Programs, bits: tuple[int, int], sparsity: float
) -> None:
    recipe = Recipe(sparsity=sparsity, weight_bits=bits[0], activation_bits=bits[1])
    check_agreement(nnx_programs, recipe)


@pytest.mark.parametrize("bits", [(8, 8), (3, 4)])
def test_they_agree_for_models_of_every_kind(programs: Programs, bits: tuple[int, int]) -> None:
    recipe = Recipe(sparsity=0.3, weight_bits=bits[0], activation_bits=bits[1])
    check_agreement(programs, recipe)


def test_they_agree_for_a_model_in_lower_precision(bfloat16_net: Net) -> None:
    programs = Programs.of(bfloat16_net)
    for weight_bits, activation_bits in ((8, 8), (5, 32)):
        recipe = Recipe(sparsity=0.3, weight_bits=weight_bits, activation_bits=activation_bits)
        check_agreement(programs, recipe)


@pytest.mark.parametrize("weight_bits", WIDTHS)
def test_outputs_are_those_of_naive_inference(pair_programs: Programs, weight_bits: int) -> None:
    for bits in WIDTHS:
        recipe = Recipe(sparsity=0.3, weight_bits=weight_bits, activation_bits=bits)
        expected = naive_inference(pair_programs, recipe)
        for found in (pair_programs.deployed(recipe), pair_programs.simulated(recipe)):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=f"{recipe}")


def test_without_a_recipe_the_model_is_as_it_was(nnx_programs: Programs) -> None:
    net = nnx_programs.net
    expected = jax.jit(net.model.predict)(net.params, net.state, net.inputs)
    for found in (nnx_programs.simulated(Recipe()), nnx_programs.deployed(Recipe())):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_more_bits_are_closer_to_the_float_model(nnx_programs: Programs) -> None:
    net = nnx_programs.net
    expected = jax.jit(net.model.predict)(net.params, net.state, net.inputs)

    def error(bits: int) -> float:
        recipe = Recipe(weight_bits=bits, activation_bits=bits)
        return float(jnp.abs(nnx_programs.deployed(recipe) - expected).mean())

    assert error(8) < error(5) < error(2)
    assert error(8) < 0.02


# What is traced -----------------------------------------------------------------------------------


def test_one_simulation_serves_every_recipe(pair_net: Net) -> None:
    net = pair_net
    predict = net.model.predict
    sites = find_sites(predict, net.params, net.state, net.inputs)
    traces: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def traced(*args: Any) -> Any:
            traces.append(name)
            return function(*args)

        return jax.jit(traced)

    run = counted("simulate", simulate(predict, sites))
    watch = counted("observe", observe(predict, sites))
    outputs = []
    for recipe in (
        Recipe(weight_bits=8, activation_bits=8),
        Recipe(weight_bits=2, activation_bits=32, sparsity=0.5),
        Recipe(weight_bits=32, activation_bits=3, sparsity=0.9),
    ):
        pruned = recipe.pruned(sites)
        ranges = watch(net.params, net.state, net.inputs, pruned)
        bits = (recipe.weight_bits, recipe.activation_bits)
        outputs.append(run(net.params, net.state, net.inputs, pruned, ranges, *bits))
    assert traces == ["observe", "simulate"]
    assert not np.allclose(outputs[0], outputs[1])
    assert not np.allclose(outputs[1], outputs[2])


def test_a_batch_of_recipes_is_the_recipes_one_by_one(pair_programs: Programs) -> None:
    programs = pair_programs
    net = programs.net
    recipes = [
        Recipe(weight_bits=w, activation_bits=a, sparsity=s)
        for w, a, s in ((8, 8, 0.0), (3, 8, 0.5), (32, 4, 0.2), (6, 32, 0.7))
    ]

    def stack(items: list[Any]) -> Any:
        return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(v) for v in leaves]), *items)

    batched = jax.jit(
        jax.vmap(
            simulate(net.model.predict, programs.sites), in_axes=(None, None, None, 0, 0, 0, 0)
        )
    )
    outputs = batched(
        net.params,
        net.state,
        net.inputs,
        stack([r.pruned(programs.sites) for r in recipes]),
        stack([programs.ranges(r) for r in recipes]),
        jnp.array([r.weight_bits for r in recipes]),
        jnp.array([r.activation_bits for r in recipes]),
    )
    expected = np.stack([programs.deployed(r) for r in recipes])
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


# Pruning ------------------------------------------------------------------------------------------


def test_exactly_the_counts_go_whatever_the_ties(pair_net: Net) -> None:
    net = pair_net
    sites = find_sites(net.model.predict, net.params, net.state, net.inputs)
    tied = {n: jnp.round(w) if n in sites else w for n, w in net.params.items()}
    tied["out"] = jnp.ones((6, 3))
    for sparsity in (0.0, 0.25, 0.5, 0.999):
        recipe = Recipe(sparsity=sparsity)
        pruned = recipe.pruned(sites)
        assert pruned == {
            "first/w": min(95, round(96 * sparsity)),
            "out": min(17, round(18 * sparsity)),
        }
        kept = masks(sites, tied, pruned)
        assert {n: int((~k).sum()) for n, k in kept.items()} == pruned
        arrays = compress(recipe, sites, tied, net.state, {})
        assert int((arrays["out"] == 0).sum()) == pruned["out"]
        expected = naive_pruned(np.asarray(tied["first/w"]), sparsity)
        np.testing.assert_array_equal(arrays["first/w"], expected)


# Observation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_ranges_are_naive_maxima(pair_programs: Programs, sparsity: float) -> None:
    """The second site sees what the first one gives with its weights pruned."""
    net = pair_programs.net
    x = np.asarray(net.inputs).reshape(-1, 16)
    first = naive_pruned(np.asarray(net.params["first/w"]), sparsity)
    hidden = np.maximum(x @ first + np.asarray(net.params["first/b"]), 0)
    found = pair_programs.ranges(Recipe(sparsity=sparsity))
    assert set(found) == {"first/w", "out"}
    assert float(found["first/w"]) == np.abs(x).max()
    assert float(found["out"]) == pytest.approx(np.abs(hidden).max(), rel=1e-6)


def test_a_weight_that_is_used_twice_has_the_range_of_both() -> None:
    params = {"w": jnp.full((2, 2), 3.0)}
    x = jnp.array([[1.0, -2.0], [0.5, 0.0]])
    small = {"w": params["w"] / 100}

    def predict(p: Any, s: Any, x: Any) -> Any:
        return x @ p["w"] @ p["w"]

    sites = find_sites(predict, params, {}, x)
    watch = jax.jit(observe(predict, sites))
    assert float(watch(params, {}, x, {"w": 0})["w"]) == 3.0  # |1 x 3 - 2 x 3|
    assert float(watch(small, {}, x, {"w": 0})["w"]) == 2.0  # the largest of x


# Deployment ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_bits", [4, 32])
@pytest.mark.parametrize("activation_bits", [4, 32])
def test_shapes_and_dtypes(nnx_programs: Programs, weight_bits: int, activation_bits: int) -> None:
    programs = nnx_programs
    recipe = Recipe(sparsity=0.5, weight_bits=weight_bits, activation_bits=activation_bits)
    arrays = programs.compressed(recipe)
    shapes = deployed_shapes(recipe, programs.sites, programs.net.params, programs.net.state)
    assert {n: (a.shape, a.dtype) for n, a in arrays.items()} == {
        n: (a.shape, a.dtype) for n, a in shapes.items()
    }
    suffixes = [".scale"] * (weight_bits < 32) + [".input"] * (activation_bits < 32)
    derived = {n + s for n in programs.sites for s in suffixes}
    assert set(arrays) == {*programs.net.params, *programs.net.state, *derived}
    for name, site in programs.sites.items():
        assert arrays[name].dtype == (jnp.int8 if weight_bits < 32 else jnp.float32)
        assert arrays[name].shape == site.shape
        if weight_bits < 32:
            assert arrays[f"{name}.scale"].size == site.channels
        if activation_bits < 32:
            assert arrays[f"{name}.input"].shape == (2,)


def products_in(text: str) -> list[str]:
    """The operand and result types of each product, such as "i8 x i8 -> i32"."""
    kinds = "dot_general|convolution"
    pattern = (
        rf"stablehlo\.({kinds})[^\n]*: \(tensor<([^>]*)>, tensor<([^>]*)>\) -> tensor<([^>]*)>"
    )
    found = []
    for kind, *shapes in re.findall(pattern, text):
        one, other, result = (str(shape).rpartition("x")[2] for shape in shapes)
        found.append(f"{kind}: {one} x {other} -> {result}")
    return found


def test_the_deployed_program_multiplies_whole_numbers(nnx_programs: Programs) -> None:
    programs = nnx_programs
    net = programs.net

    def lowered(recipe: Recipe) -> list[str]:
        run = programs.deploy[recipe.weights_quantized, recipe.inputs_quantized]
        shapes = deployed_shapes(recipe, programs.sites, net.params, net.state)
        return sorted(products_in(run.lower(shapes, net.inputs).as_text()))  # type: ignore[attr-defined]

    attention = ["dot_general: f32 x f32 -> f32"] * 2  # queries by keys, scores by values
    whole = ["convolution: i8 x i8 -> i32", *["dot_general: i8 x i8 -> i32"] * 5]
    floats = ["convolution: f32 x f32 -> f32", *["dot_general: f32 x f32 -> f32"] * 5]
    assert lowered(Recipe(weight_bits=8, activation_bits=8)) == sorted(attention + whole)
    assert lowered(Recipe(weight_bits=2, activation_bits=3)) == sorted(attention + whole)
    for recipe in (Recipe(weight_bits=8), Recipe(activation_bits=8), Recipe()):
        assert lowered(recipe) == sorted(attention + floats)


def test_a_symbolic_batch_size(nnx_programs: Programs) -> None:
    programs = nnx_programs
    net = programs.net
    recipe = Recipe(weight_bits=6, activation_bits=7, sparsity=0.2)
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = deployed_shapes(recipe, programs.sites, net.params, net.state)
    inputs = jax.ShapeDtypeStruct((batch, 4, 4, 1), jnp.float32)
    exported = jax.export.export(programs.deploy[True, True])(shapes, inputs)  # type: ignore[arg-type]
    arrays = programs.compressed(recipe)
    expected = programs.deployed(recipe)
    for count in (1, 5):
        found = exported.call(arrays, net.inputs[:count])
        np.testing.assert_allclose(found, expected[:count], rtol=1e-5, atol=1e-5)


def test_a_channel_of_zeros_stays_zero() -> None:
    params = {"w": jnp.array([[0.0, 1.0], [0.0, -2.0]])}
    x = jnp.ones((1, 2))

    def predict(p: Any, s: Any, x: Any) -> Any:
        return x @ p["w"]

    sites = find_sites(predict, params, {}, x)
    recipe = Recipe(weight_bits=8, activation_bits=8)
    dead = {"w": jnp.zeros(())}  # the calibration data gave nothing but zeros
    arrays = compress(recipe, sites, params, {}, dead)
    run = deploy(predict, sites, recipe, ())
    np.testing.assert_allclose(run(arrays, x), [[0.0, -1.0]], atol=0.02)
    np.testing.assert_array_equal(run(arrays, 0 * x), [[0.0, 0.0]])


# Recipes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "recipe"),
    [
        ({}, Recipe()),
        ({"sparsity": 0.5, "width": 3}, Recipe(sparsity=0.5)),
        ({"quantize": True}, Recipe(weight_bits=8, activation_bits=8)),
        (
            {"quantize": True, "weight_bits": 4, "sparsity": 0},
            Recipe(weight_bits=4, activation_bits=8),
        ),
        ({"quantize": False, "weight_bits": 4}, Recipe()),
        ({"activation_bits": 3}, Recipe(activation_bits=3)),
    ],
)
def test_recipe_of_a_candidate(config: dict[str, Any], recipe: Recipe) -> None:
    assert Recipe.of(config) == recipe
