"""A trained model in the form in which it is deployed: on a grid, with integer products.

Programs of one model, over the same sites:

- `observe`: the float model, which reports what each site's inputs look like;
- `simulate`: the deployed arithmetic with every width a traced number, so that one compiled
  program scores all bit-widths;
- `deploy`: the program that is compiled, measured and exported, over int8 weights.

`simulate` and `deploy` compute with the same integers, on the steps that `grid` gives both, and
leave sites to which nothing is done to the model, in its own dtypes.
Weights are pruned before, in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from paretax.spaces.calibration import (
    histogram,
    least_error_range,
    least_error_weights,
    percentile_range,
)
from paretax.spaces.floating import (
    float_product,
    format_of,
    scaled_product,
    stored_format,
    to_float8,
)
from paretax.spaces.products import Product, replace_products
from paretax.spaces.quantization import (
    FLOAT8_LIMIT,
    FLOAT_BITS,
    codes,
    expand,
    largest_code,
    largest_weight,
    scale,
)
from paretax.spaces.recipe import Recipe, Treatment
from paretax.spaces.sites import Arrays, Predict, Site

WEIGHT_STEP, INPUT_STEP = ".weight_step", ".input_step"
"""Suffixes of the logarithms of steps that were learned in training, among the trained arrays."""

Ranges = Mapping[str, jax.Array]
"""By site, the largest magnitude of its inputs that the grid covers; shape: of the stack."""


def observe(predict: Predict, sites: Mapping[str, Site]) -> Callable[..., dict[str, jax.Array]]:
    """(params, state, inputs) -> the largest magnitude of each site's inputs."""

    def handler(product: Product, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = product.run(x, weight.astype(product.weight_dtype), product.dtype)
        return y, jnp.max(jnp.abs(x.astype(jnp.float32)))

    def run(params: Arrays, state: Arrays, inputs: jax.Array) -> dict[str, jax.Array]:
        return replace_products(predict, sites, handler, jnp.maximum)(params, state, inputs)[1]

    return run


def inputs_of(predict: Predict, sites: Mapping[str, Site], name: str) -> Callable[..., jax.Array]:
    """(params, state, inputs) -> the inputs of one site; of a stack, its last one's."""

    def handler(product: Product, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, Any]:
        y = product.run(x, weight.astype(product.weight_dtype), product.dtype)
        return y, x if product.site.weight == name else None

    def run(params: Arrays, state: Arrays, inputs: jax.Array) -> jax.Array:
        seen: jax.Array = replace_products(predict, sites, handler)(params, state, inputs)[1][name]
        for _ in range(sites[name].stack):
            seen = seen[-1]
        return seen

    return run


def observe_histograms(
    predict: Predict, sites: Mapping[str, Site]
) -> Callable[..., dict[str, jax.Array]]:
    """(params, state, inputs, largest) -> a histogram of each site's input magnitudes."""

    def handler(product: Product, x: jax.Array, given: Any) -> tuple[jax.Array, jax.Array]:
        weight, largest = given
        y = product.run(x, weight.astype(product.weight_dtype), product.dtype)
        return y, histogram(x.astype(jnp.float32), largest)

    def run(
        params: Arrays, state: Arrays, inputs: jax.Array, largest: Ranges
    ) -> dict[str, jax.Array]:
        given = {n: (w, largest[n]) if n in sites else w for n, w in params.items()}
        return replace_products(predict, sites, handler, jnp.add)(given, state, inputs)[1]

    return run


def ranges_from(
    recipe: Recipe,
    sites: Mapping[str, Site],
    largest: Ranges,
    histograms: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    """The range of each site's inputs that its grid covers, as the recipe's calibration says."""
    found = {}
    for name, site in sites.items():
        if recipe.calibration == "absmax" or site.kind == "embedding":
            found[name] = largest[name]
            continue
        choose: Callable[..., jax.Array] = partial(_range, recipe, recipe.treatments[name])
        for _ in range(site.stack):
            choose = jax.vmap(choose)
        found[name] = choose(histograms[name], largest[name])
    return found


def _range(
    recipe: Recipe, treatment: Treatment, counts: jax.Array, largest: jax.Array
) -> jax.Array:
    if recipe.calibration == "percentile":
        return percentile_range(counts, largest, recipe.percentile)
    return least_error_range(counts, largest, largest_code(treatment.activation_bits))


Grid = dict[str, dict[str, jax.Array]]
"""By site that has steps: `weight_step` (rank of the weight), `input_step`, `weight_limit`,
`input_limit` (shape of the stack), and whether each side is whole, `whole_weights` and
`whole_inputs`, likewise."""


def widths_of(recipe: Recipe) -> dict[str, jax.Array]:
    """The numbers of a recipe that `grid` takes: of sites with steps, both sides' bits."""
    return {
        name: jnp.asarray([t.weight_bits, t.activation_bits], jnp.int32)
        for name, t in recipe.treatments.items()
        if t.has_steps
    }


def grid(
    recipe: Recipe,
    sites: Mapping[str, Site],
    params: Arrays,
    ranges: Ranges,
    widths: Mapping[str, jax.Array],
    learned: Arrays,
) -> Grid:
    """The steps of the weights and inputs of every site that has some.

    Args:
        recipe: of which only the structure is read.
        sites: of the model.
        params: its weights, pruned.
        ranges: of the inputs.
        widths: of `widths_of`, which says what has steps; may be traced.
        learned: logarithms of steps that training found, under `NAME.weight_step` and
            `NAME.input_step`; empty where it learned none.
    """
    found: Grid = {}
    for name, site in sites.items():
        if name not in widths:
            continue
        treatment = recipe.treatments[name]
        float8 = treatment.precision == "float8"
        w_limit, x_limit = (
            (jnp.float32(FLOAT8_LIMIT),) * 2
            if float8
            else (largest_code(widths[name][0]), largest_code(widths[name][1]))
        )
        if f"{name}{WEIGHT_STEP}" in learned:
            w_step = jnp.exp(learned[f"{name}{WEIGHT_STEP}"])
            x_step = jnp.exp(learned[f"{name}{INPUT_STEP}"])
        else:
            weight = params[name].astype(jnp.float32)
            largest = largest_weight(weight, treatment.shared, treatment.group)
            if recipe.calibration == "mse" and not float8:
                largest = least_error_weights(weight, largest, w_limit)
            w_step, x_step = scale(largest, w_limit), scale(ranges[name], x_limit)
        lead = site.shape[: site.stack]
        numbers = {
            "input_step": x_step,
            "weight_limit": w_limit,
            "input_limit": x_limit,
            "whole_weights": widths[name][0] < FLOAT_BITS,
            "whole_inputs": widths[name][1] < FLOAT_BITS,
        }
        found[name] = {k: jnp.broadcast_to(v, lead) for k, v in numbers.items()}
        found[name]["weight_step"] = w_step
    return found


def simulate(
    predict: Predict, sites: Mapping[str, Site], recipe: Recipe
) -> Callable[[Arrays, Arrays, jax.Array, Grid], Any]:
    """(params, state, inputs, grid) -> outputs, as the deployed program computes them.

    Args:
        predict: the model in inference mode.
        sites: its sites.
        recipe: of which only the structure is read; what has integers is what has steps.
    """

    def handler(product: Product, x: jax.Array, given: Any) -> tuple[jax.Array, None]:
        treatment = recipe.treatments[product.site.weight]
        if not treatment.as_model:
            return float_product(product, x, given, treatment.precision), None
        weight, step = given["weight"].astype(jnp.float32), given["weight_step"]
        w_codes = codes(weight, expand(step, weight.shape), given["weight_limit"])
        w = jnp.where(given["whole_weights"], w_codes, weight)
        w_step = jnp.where(given["whole_weights"], step, 1.0)
        if product.site.kind == "embedding":
            y = product.bare(x, w, jnp.float32) * product.spread(w_step)
            return y.astype(product.dtype), None
        exact = x.astype(jnp.float32)
        x_codes = codes(exact, given["input_step"], given["input_limit"])
        values = jnp.where(given["whole_inputs"], x_codes, exact)
        x_step = jnp.where(given["whole_inputs"], given["input_step"], 1.0)
        y = scaled_product(product, values, w, w_step, x_step, jnp.float32)
        return y.astype(product.dtype), None

    def run(params: Arrays, state: Arrays, inputs: jax.Array, grid: Grid) -> Any:
        treatments = recipe.treatments
        changed = {n: s for n, s in sites.items() if n in grid or not treatments[n].as_model}
        given = {
            n: {"weight": w, **grid.get(n, {})} if n in changed else w for n, w in params.items()
        }
        return replace_products(predict, changed, handler)(given, state, inputs)[0]

    return run


def in_stored_format(recipe: Recipe, sites: Mapping[str, Site], params: Arrays) -> Arrays:
    """The parameters, weights that a format narrower than their own will hold rounded to it."""
    found = dict(params)
    for name, treatment in recipe.treatments.items():
        if name in sites and treatment.changes and not treatment.has_steps:
            found[name] = params[name].astype(
                format_of(stored_format(sites[name], treatment.precision))
            )
    return found


def compress(
    recipe: Recipe, sites: Mapping[str, Site], params: Arrays, state: Arrays, grid: Grid
) -> dict[str, jax.Array]:
    """The arrays that the deployed program takes.

    Returns:
        Every parameter and state array under its name, in its own dtype; a quantised site's weight
        as int8 codes or float8, with its scales under `NAME.scale` (float32, rank of the weight);
        the step and the largest code of its quantised inputs under `NAME.input` (float32, shape
        (..., 2)).
    """
    out = {**in_stored_format(recipe, sites, params), **state}
    for name, site in sites.items():
        treatment = recipe.treatments[name]
        if not treatment.has_steps:
            continue
        weight, steps = params[name], grid[name]
        step = steps["weight_step"]
        float8 = treatment.precision == "float8"
        if float8:
            out[name], out[f"{name}.scale"] = to_float8(weight, step), step
        elif treatment.weights_quantized:
            limit = steps["weight_limit"].reshape(
                *site.shape[: site.stack], *[1] * len(site.slice.shape)
            )
            w_codes = codes(weight.astype(jnp.float32), expand(step, weight.shape), limit)
            out[name], out[f"{name}.scale"] = w_codes.astype(jnp.int8), step
        if treatment.inputs_quantized or (float8 and site.kind != "embedding"):
            pair = steps["input_step"], steps["input_limit"]
            out[f"{name}.input"] = jnp.stack(pair, axis=-1)
    return out


def deployed_shapes(
    recipe: Recipe, sites: Mapping[str, Site], params: Arrays, state: Arrays
) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of what `compress` returns, from the shapes of what it takes."""

    def make(params: Arrays, state: Arrays) -> dict[str, jax.Array]:
        ranges = {n: jnp.ones(s.shape[: s.stack]) for n, s in sites.items()}
        steps = grid(recipe, sites, params, ranges, widths_of(recipe), {})
        return compress(recipe, sites, params, state, steps)

    return jax.eval_shape(make, params, state)  # type: ignore[no-any-return]


def deploy(
    predict: Predict, sites: Mapping[str, Site], recipe: Recipe, state_names: tuple[str, ...]
) -> Callable[[Arrays, jax.Array], Any]:
    """The program (arrays of `compress`, inputs) -> outputs.

    A site to which nothing is done is multiplied as the model does it, in its own dtypes. One with
    whole weights and inputs multiplies int8 by int8 into int32; with one whole side alone it
    multiplies in float32 and scales the result. It is one program for all bit-widths.

    Args:
        predict: the model in inference mode.
        sites: its sites.
        recipe: says what is quantised; its numbers are in the arrays.
        state_names: which of the arrays are state.
    """
    # The program does all other products itself.
    changed = {name: site for name, site in sites.items() if recipe.treatments[name].changes}

    def handler(product: Product, x: jax.Array, given: Any) -> tuple[jax.Array, None]:
        treatment = recipe.treatments[product.site.weight]
        weight = given["weight"]
        if not treatment.quantized:
            return float_product(product, x, given, treatment.precision), None
        step = given.get("weight_step", jnp.ones((1,) * weight.ndim, jnp.float32))
        if product.site.kind == "embedding":
            y = product.bare(x, weight, jnp.float32) * product.spread(step)
            return y.astype(product.dtype), None
        values, dtype = x.astype(jnp.float32), jnp.float32
        if treatment.inputs_quantized:
            values = codes(values, given["input_step"], given["input_limit"])
        if treatment.weights_quantized and treatment.inputs_quantized:
            values, dtype = values.astype(jnp.int8), jnp.int32
        else:
            weight = weight.astype(jnp.float32)
        y = scaled_product(product, values, weight, step, given.get("input_step", 1.0), dtype)
        return y.astype(product.dtype), None

    def run(arrays: Arrays, inputs: jax.Array) -> Any:
        derived = {n + s for n in sites for s in (".scale", ".input")}
        params = {k: v for k, v in arrays.items() if k not in derived and k not in state_names}
        for name in changed:
            given = {"weight": params[name]}
            if f"{name}.scale" in arrays:
                given["weight_step"] = arrays[f"{name}.scale"]
            if f"{name}.input" in arrays:
                pair = arrays[f"{name}.input"]
                given |= {"input_step": pair[..., 0], "input_limit": pair[..., 1]}
            params[name] = given
        state = {k: arrays[k] for k in state_names}
        return replace_products(predict, changed, handler)(params, state, inputs)[0]

    return run
