"""Observing one model: its ranges, their calibration, and the steps that are learned instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
    grid,
    inputs_of,
    observe,
    observe_histograms,
    ranges_from,
    widths_of,
)
from paretax.spaces.quantization import largest_weight
from paretax.spaces.recipe import Recipe
from paretax.spaces.sites import find_sites

if TYPE_CHECKING:
    from tests.spaces.compression.conftest import Both, Programs

ONE = np.float32(1)
close = np.testing.assert_allclose


def naive_inputs(programs: Programs, sparsity: float) -> dict[str, np.ndarray]:
    """Of the pair model's sites."""
    x = np.asarray(programs.inputs).reshape(-1, 16)
    first = programs.naive_pruned("first/w", sparsity)
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
def test_ranges_of_every_calibration(stack_programs: Programs, both: Both, how: str) -> None:
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
    request: pytest.FixtureRequest, both: Both, name: str, scales: str
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


def test_learned_steps_take_the_place_of_calibrated_ones(
    stack_programs: Programs, both: Both
) -> None:
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
