"""Observing, simulating and deploying one model: the same integers in each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.spaces import compression
from paretax.spaces.calibration import (
    BINS,
    histogram,
    least_error_range,
    least_error_weights,
    percentile_range,
)
from paretax.spaces.compression import (
    INPUT_STEP,
    WEIGHT_STEP,
    compress,
    deploy,
    deployed_shapes,
    grid,
    inputs_of,
    observe,
    observe_histograms,
    ranges_from,
    simulate,
    widths_of,
)
from paretax.spaces.products import Product, replace_products
from paretax.spaces.quantization import largest_weight
from paretax.spaces.recipe import Recipe, masks
from paretax.spaces.sites import Site, find_sites

if TYPE_CHECKING:
    from tests.conftest import Net
    from tests.spaces.conftest import Example

WIDTHS = (2, 3, 4, 5, 6, 7, 8, 32)
ONE = np.float32(1)
close = np.testing.assert_allclose


@dataclass(frozen=True, kw_only=True)
class Programs:
    """The programs of one model, compiled once for each structure.

    Args:
        predict: the model.
        params: its weights.
        state: its state.
        inputs: a batch, also for calibration.
        sites: of the model.
        cache: compiled programs.
    """

    predict: Callable[..., Any]
    params: Mapping[str, Any]
    state: Mapping[str, Any]
    inputs: Any
    sites: dict[str, Site]
    cache: dict[Any, Callable[..., Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, predict: Any, params: Any, state: Any, inputs: Any) -> Programs:
        sites = find_sites(predict, params, state, inputs)
        return cls(predict=predict, params=params, state=state, inputs=inputs, sites=sites)

    def program(self, key: Any, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        if key not in self.cache:
            self.cache[key] = jax.jit(make())
        return self.cache[key]

    def recipe(self, config: Mapping[str, Any]) -> Recipe:
        return Recipe.of(config, self.sites)

    def pruned(self, recipe: Recipe) -> Mapping[str, Any]:
        if not recipe.sparse:
            return self.params
        magnitudes = {n: jnp.abs(self.params[n]) for n in self.sites}
        kept = masks(recipe, self.sites, magnitudes, recipe.pruned(self.sites))
        return {n: jnp.where(kept[n], w, 0) if n in kept else w for n, w in self.params.items()}

    def ranges(self, recipe: Recipe) -> dict[str, jax.Array]:
        watch = self.program("observe", lambda: observe(self.predict, self.sites))
        params = self.pruned(recipe)
        largest = watch(params, self.state, self.inputs)
        histograms: dict[str, jax.Array] = {}
        if recipe.calibration != "absmax":
            count = self.program("count", lambda: observe_histograms(self.predict, self.sites))
            histograms = count(params, self.state, self.inputs, largest)
        return ranges_from(recipe, self.sites, largest, histograms)

    def grid(self, recipe: Recipe) -> Any:
        make = self.program(
            ("grid", recipe.structure),
            lambda: lambda p, r, w: grid(recipe, self.sites, p, r, w, {}),
        )
        return make(self.pruned(recipe), self.ranges(recipe), widths_of(recipe))

    def arrays(self, recipe: Recipe) -> dict[str, jax.Array]:
        params = self.pruned(recipe)
        return compress(recipe, self.sites, params, self.state, self.grid(recipe))

    def simulated(self, recipe: Recipe) -> Any:
        run = self.program(
            ("simulate", recipe.structure), lambda: simulate(self.predict, self.sites, recipe)
        )
        return run(self.pruned(recipe), self.state, self.inputs, self.grid(recipe))

    def deploy(self, recipe: Recipe) -> Callable[..., Any]:
        whole = [(t.weights_quantized, t.inputs_quantized) for t in recipe.treatments.values()]
        return self.program(
            ("deploy", recipe.structure, *whole),
            lambda: deploy(self.predict, self.sites, recipe, tuple(self.state)),
        )

    def deployed(self, recipe: Recipe) -> Any:
        return self.deploy(recipe)(self.arrays(recipe), self.inputs)


def of_net(net: Net) -> Programs:
    return Programs.of(net.model.predict, net.params, net.state, net.inputs)


def of_example(model: Example) -> Programs:
    return Programs.of(model.predict, model.params, model.state, model.inputs)


@pytest.fixture(scope="module")
def nnx_programs(nnx_net: Net) -> Programs:
    return of_net(nnx_net)


@pytest.fixture(scope="module")
def linen_programs(linen_net: Net) -> Programs:
    return of_net(linen_net)


@pytest.fixture(scope="module")
def pair_programs(pair_net: Net) -> Programs:
    return of_net(pair_net)


@pytest.fixture(scope="module")
def stack_programs(example: Callable[[str], Example]) -> Programs:
    return of_example(example("stack-nnx"))


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
        weight = naive_pruned(params[name], treatment.sparsity)
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


def both(weight_bits: int, activation_bits: int, **more: Any) -> dict[str, Any]:
    """A candidate with these widths; 32 stands for none."""
    sides = {"weight_bits": weight_bits, "activation_bits": activation_bits}
    return {n: bits for n, bits in sides.items() if bits < 32} | more


@pytest.mark.parametrize("sparsity", [0.0, 0.4, 0.95])
@pytest.mark.parametrize("weight_bits", WIDTHS)
def test_deployed_arrays_are_those_of_the_naive_grid(
    nnx_programs: Programs, weight_bits: int, sparsity: float
) -> None:
    """Bit for bit."""
    programs = nnx_programs
    recipe = programs.recipe(both(weight_bits, 5, sparsity=sparsity))
    arrays = programs.arrays(recipe)
    ranges = programs.ranges(recipe)
    for name, site in programs.sites.items():
        expected = naive_pruned(np.asarray(programs.params[name]), sparsity)
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


# The same integers --------------------------------------------------------------------------------


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """`simulate` and `deploy` also return what each site multiplies: inputs, weights, product."""

    def recording(function: Any, sites: Any, handler: Any, join: Any = None) -> Any:
        if join is not None:  # it observes
            return replace_products(function, sites, handler, join)

        def noting(product: Product, x: Any, given: Any) -> Any:
            seen = []

            def run(inputs: Any, weight: Any, dtype: Any) -> Any:
                y = product.run(inputs, weight, dtype)
                seen.append({"inputs": inputs, "weight": weight, "product": y})
                return y

            return handler(replace(product, run=run), x, given)[0], tuple(seen)

        replaced = replace_products(function, sites, noting, lambda one, other: (*one, *other))
        return lambda *args: (replaced(*args), None)

    monkeypatch.setattr(compression, "replace_products", recording)


MIXTURE = {
    "weight_bits": 6,
    "activation_bits": 7,
    "weight_bits@first": 8,
    "activation_bits@first": 8,
    "weight_bits@last": 2,
    "activation_bits@attention": 4,
    "weight_bits@attention": 3,
}
WHOLE: dict[str, dict[str, Any]] = {
    "8 and 8": {"quantize": True},
    "3 and 4": both(3, 4),
    "mixture": MIXTURE,
    "groups": {"quantize": True, "weight_bits": 4, "weight_scales": "group", "group_size": 2},
    "tensor": both(5, 8, weight_scales="tensor"),
    "mse": both(3, 3, calibration="mse"),
    "percentile": both(8, 8, calibration="percentile", calibration_percentile=97.0),
    "sparse": both(8, 6, sparsity=0.6),
}
INTEGERS = {
    "nnx": ("8 and 8", "3 and 4", "mixture", "sparse", "tensor"),
    "pair": ("3 and 4", "groups", "percentile", "mse"),
    "stack-nnx": ("8 and 8", "mixture", "groups"),
    "tokens-linen": ("mixture",),
    "cnn-linen": ("groups",),
    "separable-nnx": ("8 and 8",),
    "residual-nnx": ("8 and 8",),
}


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("name", INTEGERS)
def test_simulated_and_deployed_integers_are_the_same(
    request: pytest.FixtureRequest, name: str
) -> None:
    """Weights, inputs and their sums, at every site; and so the outputs."""
    if "-" in name:
        programs = of_example(request.getfixturevalue("example")(name))
    else:
        programs = of_net(request.getfixturevalue(f"{name}_net"))
    for how in INTEGERS[name]:
        check_integers(programs, programs.recipe(WHOLE[how]))


def check_integers(programs: Programs, recipe: Recipe) -> None:
    simulated, one = programs.simulated(recipe)
    deployed, other = programs.deployed(recipe)
    assert set(one) == set(other) == set(programs.sites)
    for weight, site in programs.sites.items():
        assert len(one[weight]) == len(other[weight]) >= 1
        treatment = recipe.treatments[weight]
        lead = site.shape[: site.stack]
        for a, b in zip(one[weight], other[weight], strict=True):
            assert a["weight"].dtype == jnp.float32
            assert b["weight"].dtype == jnp.int8
            if site.kind != "embedding":
                assert b["inputs"].dtype == jnp.int8
                assert b["product"].dtype == jnp.int32
                limit = 2 ** (treatment.activation_bits - 1) - 1
                assert int(jnp.max(jnp.abs(b["inputs"].astype(jnp.int32)))) <= limit
            for part in ("inputs", "weight", "product"):
                assert a[part].shape[: site.stack] == lead
                np.testing.assert_array_equal(
                    np.asarray(a[part], np.float64),
                    np.asarray(b[part], np.float64),
                    err_msg=f"{weight}: {part}",
                )
    np.testing.assert_array_equal(simulated, deployed)


def check_agreement(programs: Programs, recipe: Recipe, rtol: float = 1e-5) -> None:
    simulated, deployed = programs.simulated(recipe), programs.deployed(recipe)
    expected = jax.eval_shape(programs.predict, programs.params, programs.state, programs.inputs)
    assert simulated.dtype == deployed.dtype == expected.dtype
    assert simulated.shape == deployed.shape == expected.shape
    one, other = (np.asarray(a, np.float32) for a in (simulated, deployed))
    assert np.isfinite(one).all()
    np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol, err_msg=f"{recipe}")


@pytest.mark.parametrize("weight_bits", WIDTHS)
def test_simulated_and_deployed_outputs_agree(nnx_programs: Programs, weight_bits: int) -> None:
    for bits in WIDTHS:
        recipe = nnx_programs.recipe(both(weight_bits, bits, sparsity=0.4))
        check_agreement(nnx_programs, recipe)


@pytest.mark.parametrize("weight_bits", range(2, 9))
def test_they_are_equal_where_all_is_whole(pair_programs: Programs, weight_bits: int) -> None:
    """Exactly: the sums stay below 2^24."""
    for bits in range(2, 9):
        recipe = pair_programs.recipe(both(weight_bits, bits))
        found = pair_programs.simulated(recipe), pair_programs.deployed(recipe)
        np.testing.assert_array_equal(*found, err_msg=f"{weight_bits} and {bits}")


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.7, 0.95])
@pytest.mark.parametrize("bits", [(8, 8), (2, 5), (4, 32), (32, 4)])
def test_they_agree_at_every_sparsity(
    nnx_programs: Programs, bits: tuple[int, int], sparsity: float
) -> None:
    check_agreement(nnx_programs, nnx_programs.recipe(both(*bits, sparsity=sparsity)))


@pytest.mark.parametrize("bits", [(8, 8), (3, 4)])
def test_they_agree_for_models_of_every_kind(programs: Programs, bits: tuple[int, int]) -> None:
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_agree_for_a_model_in_lower_precision(bfloat16_net: Net, dtype: str) -> None:
    """Whether it casts its weights, or has them in that precision."""
    params = {n: a.astype(dtype) for n, a in bfloat16_net.params.items()}
    predict, state, inputs = bfloat16_net.model.predict, bfloat16_net.state, bfloat16_net.inputs
    programs = Programs.of(predict, params, state, inputs)
    for bits in ((8, 8), (5, 32)):
        check_agreement(programs, programs.recipe(both(*bits, sparsity=0.3)))


@pytest.mark.parametrize("weight_bits", WIDTHS)
def test_outputs_are_those_of_naive_inference(pair_programs: Programs, weight_bits: int) -> None:
    for bits in WIDTHS:
        recipe = pair_programs.recipe(both(weight_bits, bits, sparsity=0.3))
        expected = naive_inference(pair_programs, recipe)
        for found in (pair_programs.deployed(recipe), pair_programs.simulated(recipe)):
            close(found, expected, rtol=1e-5, atol=1e-5, err_msg=f"{recipe}")


@pytest.mark.parametrize("scales", ["tensor", "group"])
@pytest.mark.parametrize("bits", [(8, 8), (2, 5), (4, 32)])
def test_naive_inference_with_scales_of_other_forms(
    pair_programs: Programs, scales: str, bits: tuple[int, int]
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


def test_more_bits_are_closer_to_the_float_model(nnx_programs: Programs) -> None:
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
def test_group_scales_of_convolutions_in_every_layout(layout: str, groups: int) -> None:
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

    programs = Programs.of(predict, {"w": w}, {}, x)
    recipe = programs.recipe(both(8, 8, weight_scales="group", group_size=2))
    assert recipe.treatments["w"].group == ((kernel.index("I"), 2) if groups == 1 else None)
    expected = predict({"w": w}, {}, x)
    for found in (programs.simulated(recipe), programs.deployed(recipe)):
        close(found, expected, atol=0.02 * float(jnp.abs(expected).max()))
    np.testing.assert_array_equal(programs.simulated(recipe), programs.deployed(recipe))


# What is traced -----------------------------------------------------------------------------------


def test_one_simulation_serves_every_recipe(pair_net: Net) -> None:
    programs = of_net(pair_net)
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


def test_a_batch_of_recipes_is_the_recipes_one_by_one(pair_programs: Programs) -> None:
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


# Observation --------------------------------------------------------------------------------------


def naive_inputs(programs: Programs, sparsity: float) -> dict[str, np.ndarray]:
    """Of the pair model's sites."""
    x = np.asarray(programs.inputs).reshape(-1, 16)
    first = naive_pruned(np.asarray(programs.params["first/w"]), sparsity)
    return {"first/w": x, "out": np.maximum(x @ first + np.asarray(programs.params["first/b"]), 0)}


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_ranges_are_naive_maxima(pair_programs: Programs, sparsity: float) -> None:
    """The second site sees what the first one gives with its weights pruned."""
    found = pair_programs.ranges(pair_programs.recipe({"sparsity": sparsity}))
    expected = naive_inputs(pair_programs, sparsity)
    assert set(found) == set(expected)
    for name, x in expected.items():
        assert float(found[name]) == pytest.approx(np.abs(x).max(), rel=1e-6)
    np.testing.assert_array_equal(found["first/w"], np.abs(expected["first/w"]).max())


def test_a_weight_that_is_used_twice_has_the_range_of_both() -> None:
    params = {"w": jnp.full((2, 2), 3.0)}
    x = jnp.array([[1.0, -2.0], [0.5, 0.0]])
    small = {"w": params["w"] / 100}

    def predict(p: Any, s: Any, x: Any) -> Any:
        return x @ p["w"] @ p["w"]

    sites = find_sites(predict, params, {}, x)
    watch = jax.jit(observe(predict, sites))
    assert float(watch(params, {}, x)["w"]) == 3.0  # |1 x 3 - 2 x 3|
    assert float(watch(small, {}, x)["w"]) == 2.0  # the largest of x
    count = jax.jit(observe_histograms(predict, sites))
    assert float(count(params, {}, x, {"w": jnp.float32(3)})["w"].sum()) == 8  # of both uses


def test_each_layer_of_a_stack_has_a_range_of_its_own(stack_programs: Programs) -> None:
    found = stack_programs.ranges(Recipe.plain(stack_programs.sites))
    for name, site in stack_programs.sites.items():
        assert found[name].shape == site.shape[: site.stack]
        assert len(np.unique(found[name])) == found[name].size
    q, k = (found[f"blocks/attention/{n}/kernel"] for n in ("query", "key"))
    np.testing.assert_array_equal(q, k)  # the same inputs


def test_histograms_are_those_of_the_inputs(pair_programs: Programs) -> None:
    programs = pair_programs
    largest = programs.ranges(Recipe.plain(programs.sites))
    count = jax.jit(observe_histograms(programs.predict, programs.sites))
    found = count(programs.params, programs.state, programs.inputs, largest)
    for name, x in naive_inputs(programs, 0.0).items():
        expected = histogram(jnp.asarray(x), largest[name])
        assert float(found[name].sum()) == x.size
        assert float(jnp.abs(jnp.cumsum(found[name]) - jnp.cumsum(expected)).max()) <= 1


CALIBRATIONS: dict[str, dict[str, Any]] = {
    "percentile": {"calibration": "percentile", "calibration_percentile": 90.0},
    "mse": {"calibration": "mse"},
}


@pytest.mark.parametrize("how", CALIBRATIONS)
def test_ranges_of_every_calibration(stack_programs: Programs, how: str) -> None:
    """Layer by layer; the range of look-ups, which stay whole, is not looked for."""
    programs = stack_programs
    recipe = programs.recipe(both(8, 3) | CALIBRATIONS[how])
    largest = programs.ranges(Recipe.plain(programs.sites))
    count = jax.jit(observe_histograms(programs.predict, programs.sites))
    counts = count(programs.params, programs.state, programs.inputs, largest)
    found = ranges_from(recipe, programs.sites, largest, counts)
    for name, site in programs.sites.items():
        assert counts[name].shape == (*site.shape[: site.stack], BINS)
        rows = counts[name].reshape(-1, BINS), largest[name].ravel(), found[name].ravel()
        for row, most, one in zip(*rows, strict=True):
            if site.kind == "embedding":
                expected = most
            elif how == "mse":
                expected = jax.jit(least_error_range)(row, most, jnp.float32(3))
            else:
                expected = jax.jit(percentile_range)(row, most, 90.0)
            close(one, expected, rtol=1e-6)
    smaller = [bool((found[n] < largest[n]).any()) for n in programs.sites]
    assert smaller == [site.kind != "embedding" for site in programs.sites.values()]
    plain = ranges_from(programs.recipe({}), programs.sites, largest, {})
    jax.tree.map(np.testing.assert_array_equal, plain, largest)


@pytest.mark.parametrize(
    ("name", "scales"), [("stack", "group"), ("pair", "channel"), ("pair", "tensor")]
)
def test_least_error_holds_for_weights_as_well(
    request: pytest.FixtureRequest, name: str, scales: str
) -> None:
    programs: Programs = request.getfixturevalue(f"{name}_programs")
    config = both(3, 8, calibration="mse", weight_scales=scales, group_size=4)
    recipe = programs.recipe(config)
    steps = programs.grid(recipe)
    for weight, treatment in recipe.treatments.items():
        values = programs.params[weight]
        largest = largest_weight(values, treatment.shared, treatment.group)
        best = jax.jit(least_error_weights)(values, largest, jnp.float32(3))
        close(steps[weight]["weight_step"], best * (ONE / np.float32(3)), rtol=1e-6)


def test_the_inputs_of_one_site(pair_programs: Programs, stack_programs: Programs) -> None:
    programs = pair_programs
    for name, expected in naive_inputs(programs, 0.0).items():
        run = jax.jit(inputs_of(programs.predict, programs.sites, name))
        close(run(programs.params, programs.state, programs.inputs), expected, atol=1e-5)
    programs = stack_programs
    watch = programs.ranges(Recipe.plain(programs.sites))
    for name in ("blocks/up/kernel", "out/kernel", "embed/embedding"):
        run = jax.jit(inputs_of(programs.predict, programs.sites, name))
        found = run(programs.params, programs.state, programs.inputs)
        close(jnp.abs(found).max(), watch[name].ravel()[-1], rtol=1e-6)  # of the last layer


def test_learned_steps_take_the_place_of_calibrated_ones(stack_programs: Programs) -> None:
    programs = stack_programs
    recipe = programs.recipe(both(4, 4))
    calibrated = programs.grid(recipe)
    name = "blocks/up/kernel"
    learned = {
        f"{name}{WEIGHT_STEP}": jnp.log(2 * calibrated[name]["weight_step"]),
        f"{name}{INPUT_STEP}": jnp.log(3 * calibrated[name]["input_step"]),
    }
    found = grid(
        recipe,
        programs.sites,
        programs.params,
        programs.ranges(recipe),
        widths_of(recipe),
        learned,
    )
    close(found[name]["weight_step"], 2 * calibrated[name]["weight_step"], rtol=1e-6)
    close(found[name]["input_step"], 3 * calibrated[name]["input_step"], rtol=1e-6)
    for other in programs.sites:
        assert {k: v.shape for k, v in found[other].items()} == {
            k: v.shape for k, v in calibrated[other].items()
        }
        if other != name:
            jax.tree.map(np.testing.assert_array_equal, found[other], calibrated[other])


# Deployment ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight_bits", [4, 32])
@pytest.mark.parametrize("activation_bits", [4, 32])
@pytest.mark.parametrize("name", ["nnx", "stack"])
def test_shapes_and_dtypes(
    request: pytest.FixtureRequest, name: str, weight_bits: int, activation_bits: int
) -> None:
    programs: Programs = request.getfixturevalue(f"{name}_programs")
    recipe = programs.recipe(both(weight_bits, activation_bits, sparsity=0.5))
    arrays = programs.arrays(recipe)
    shapes = deployed_shapes(recipe, programs.sites, programs.params, programs.state)
    assert {n: (a.shape, a.dtype) for n, a in arrays.items()} == {
        n: (a.shape, a.dtype) for n, a in shapes.items()
    }
    derived = {n + ".scale" for n in programs.sites if weight_bits < 32} | {
        n + ".input"
        for n, site in programs.sites.items()
        if activation_bits < 32 and site.kind != "embedding"
    }
    assert set(arrays) == {*programs.params, *programs.state, *derived}
    for weight, site in programs.sites.items():
        assert arrays[weight].dtype == (jnp.int8 if weight_bits < 32 else jnp.float32)
        assert arrays[weight].shape == site.shape
        if weight_bits < 32:
            assert arrays[f"{weight}.scale"].size == site.channels
        if f"{weight}.input" in derived:
            assert arrays[f"{weight}.input"].shape == (*site.shape[: site.stack], 2)


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


ATTENTION = ["dot_general: f32 x f32 -> f32"] * 2  # queries by keys, scores by values


def test_the_deployed_program_multiplies_whole_numbers(nnx_programs: Programs) -> None:
    programs = nnx_programs

    def lowered(config: Mapping[str, Any]) -> list[str]:
        recipe = programs.recipe(config)
        run: Any = programs.deploy(recipe)
        shapes = deployed_shapes(recipe, programs.sites, programs.params, programs.state)
        return sorted(products_in(run.lower(shapes, programs.inputs).as_text()))

    whole = ["convolution: i8 x i8 -> i32", *["dot_general: i8 x i8 -> i32"] * 5]
    floats = ["convolution: f32 x f32 -> f32", *["dot_general: f32 x f32 -> f32"] * 5]
    assert lowered(both(8, 8)) == sorted(ATTENTION + whole)
    assert lowered(both(2, 3)) == sorted(ATTENTION + whole)
    for config in (both(8, 32), both(32, 8), {}):
        assert lowered(config) == sorted(ATTENTION + floats)
    some = lowered({"weight_bits@attention": 8, "activation_bits@attention": 8})
    assert some == sorted(ATTENTION + whole[1:5] + floats[:2])
    grouped = lowered(both(8, 8, weight_scales="group", group_size=2))
    # Two groups in four products of four inputs; heads of two and the image's channel have one.
    assert grouped == sorted(ATTENTION + whole + ["dot_general: i8 x i8 -> i32"] * 4)
    low = lowered({"precision": "bfloat16"})
    assert low == sorted(ATTENTION + [p.replace("f32 x f32", "bf16 x bf16") for p in floats])
    eighth = lowered({"precision": "float8"})
    assert eighth == sorted(
        ATTENTION + [p.replace("f32 x f32", "f8E4M3FN x f8E4M3FN") for p in floats]
    )


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One line of a compiled program."""

    type: str
    opcode: str
    operands: tuple[str, ...]
    calls: str | None


class Compiled:
    """A compiled program's text, computation by computation."""

    def __init__(self, text: str) -> None:
        self.parts: dict[str, dict[str, Instruction]] = {}
        self.roots: dict[str, str] = {}
        part = ""
        for line in text.splitlines():
            if head := re.match(r"(?:ENTRY )?%(\S+) \(.*\{$", line):
                part = head[1]
                self.parts[part] = {}
            found = re.match(r"\s+(ROOT )?%(\S+) = (\S+) ([\w-]+)\((.*?)\)", line)
            if found:
                calls = re.search(r"calls=%([\w.-]+)", line)
                root, name, kind, opcode, operands = found.groups()
                self.parts[part][name] = Instruction(
                    type=kind.partition("[")[0],
                    opcode=opcode,
                    operands=tuple(re.findall(r"%([\w.-]+)", operands)),
                    calls=calls[1] if calls else None,
                )
                if root:
                    self.roots[part] = name

    def origin(self, part: str, name: str) -> str:
        """The type of an operand before it was widened to another one."""
        this = self.parts[part][name]
        if this.calls is not None:
            return self.origin(this.calls, self.roots[this.calls])
        moved = ("convert", "copy", "transpose", "bitcast", "reshape", "slice", "dynamic-slice")
        if this.opcode in moved and this.type != "s8":
            return self.origin(part, this.operands[0])
        return this.type

    def products(self) -> list[str]:
        """Of every dot and convolution the types of the operands' origins and of the result."""
        return sorted(
            f"{this.opcode}: {' x '.join(self.origin(part, o) for o in this.operands)} "
            f"-> {this.type}"
            for part, lines in self.parts.items()
            for this in lines.values()
            if this.opcode in ("dot", "convolution")
        )


@pytest.mark.parametrize("name", ["nnx", "pair", "stack"])
def test_the_compiled_program_multiplies_whole_numbers(
    request: pytest.FixtureRequest, name: str
) -> None:
    """After all of the compiler's passes: no product at a quantised site is in floating point.

    XLA's CPU compiler multiplies s8 by s8 into s32 in its dots. Convolutions are of s32, and
    their operands are widened from s8 just before.
    """
    programs: Programs = request.getfixturevalue(f"{name}_programs")
    recipe = programs.recipe({"quantize": True})
    shapes = deployed_shapes(recipe, programs.sites, programs.params, programs.state)
    run: Any = programs.deploy(recipe)
    found = Compiled(run.lower(shapes, programs.inputs).compile().as_text()).products()
    kinds = {"dot": "dot", "convolution": "convolution"}
    sites = [kinds[s.kind] for s in programs.sites.values() if s.kind in kinds]
    whole = [f"{kind}: s8 x s8 -> s32" for kind in sites]
    attention = any("attention" in site for site in programs.sites)
    floats = ["dot: f32 x f32 -> f32"] * 2 if attention else []
    assert found == sorted(whole + floats)


def test_the_compiled_float_program_has_no_whole_products(nnx_programs: Programs) -> None:
    """The same reading finds what is not there."""
    programs = nnx_programs
    recipe = Recipe.plain(programs.sites)
    shapes = deployed_shapes(recipe, programs.sites, programs.params, programs.state)
    run: Any = programs.deploy(recipe)
    found = Compiled(run.lower(shapes, programs.inputs).compile().as_text()).products()
    assert found == ["convolution: f32 x f32 -> f32", *["dot: f32 x f32 -> f32"] * 7]


@pytest.mark.parametrize("name", ["nnx", "stack"])
def test_a_symbolic_batch_size(request: pytest.FixtureRequest, name: str) -> None:
    programs: Programs = request.getfixturevalue(f"{name}_programs")
    recipe = programs.recipe(both(6, 7, sparsity=0.2))
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = deployed_shapes(recipe, programs.sites, programs.params, programs.state)
    x = programs.inputs
    inputs = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    exported = jax.export.export(programs.deploy(recipe))(shapes, inputs)  # type: ignore[arg-type]
    arrays = programs.arrays(recipe)
    expected = programs.deployed(recipe)
    for count in (1, 5):
        found = exported.call(arrays, x[:count])
        close(found, expected[:count], rtol=1e-5, atol=1e-5)


def test_a_channel_of_zeros_stays_zero() -> None:
    params = {"w": jnp.array([[0.0, 1.0], [0.0, -2.0]])}
    x = jnp.ones((1, 2))

    def predict(p: Any, s: Any, x: Any) -> Any:
        return x @ p["w"]

    sites = find_sites(predict, params, {}, x)
    recipe = Recipe.of(both(8, 8), sites)
    dead = {"w": jnp.zeros(())}  # the calibration data gave nothing but zeros
    steps = grid(recipe, sites, params, dead, widths_of(recipe), {})
    arrays = compress(recipe, sites, params, {}, steps)
    run = deploy(predict, sites, recipe, ())
    close(run(arrays, x), [[0.0, -1.0]], atol=0.02)
    np.testing.assert_array_equal(run(arrays, 0 * x), [[0.0, 0.0]])


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "float8"])
def test_look_ups_in_every_format(example: Callable[[str], Example], precision: str) -> None:
    """Rows of a table on the grid are rows of codes, times the features' scales."""
    table = example("tokens-nnx").params["embed/embedding"]
    ids = jnp.array([[3, 1], [10, 0]])

    def predict(p: Any, s: Any, x: Any) -> Any:
        return p["e"][x]

    programs = Programs.of(predict, {"e": table}, {}, ids)
    for config in ({"precision": precision}, {"precision": precision, "weight_bits": 4}):
        recipe = programs.recipe(config)
        arrays = programs.arrays(recipe)
        scale = np.asarray(arrays.get("e.scale", 1.0), np.float32)
        expected = np.asarray(arrays["e"], np.float32)[np.asarray(ids)] * scale
        np.testing.assert_array_equal(programs.deployed(recipe), expected)
        np.testing.assert_array_equal(programs.simulated(recipe), expected)
