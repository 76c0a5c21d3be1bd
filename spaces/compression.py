"""A trained model in the form in which it is deployed: masked, quantised, with integer products.

Three programs of one model, over the same sites:

- `observe`: the float model with masked weights, which reports the range of each site's inputs;
- `simulate`: the deployed arithmetic with every choice a traced number, so that one compiled
  program scores all sparsities and bit-widths;
- `deploy`: the program that is compiled, measured and exported, over int8 weights.

`simulate` and `deploy` compute with the same integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from paretax.spaces import pruning, quantization
from paretax.spaces.dimensions import choose
from paretax.spaces.pruning import magnitude_mask, pruned_count
from paretax.spaces.quantization import FLOAT_BITS, codes, largest_code, quantize_weights, scale
from paretax.spaces.sites import Arrays, Predict, Product, Site, replace_products


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is done to a model's sites after training.

    Args:
        sparsity: share of each site's weights that are pruned.
        weight_bits: 2 to 8, or 32 for float32.
        activation_bits: of each site's inputs; likewise.
    """

    sparsity: float = 0.0
    weight_bits: int = FLOAT_BITS
    activation_bits: int = FLOAT_BITS

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Recipe:
        """What a candidate asks for."""
        weight, active = quantization.widths(config)
        sparsity = float(choose(pruning.SETTINGS, config)["sparsity"])
        return cls(sparsity=sparsity, weight_bits=weight, activation_bits=active)

    @property
    def weights_quantized(self) -> bool:
        """Whether weights are integers."""
        return self.weight_bits < FLOAT_BITS

    @property
    def inputs_quantized(self) -> bool:
        """Whether a site's inputs are integers."""
        return self.activation_bits < FLOAT_BITS

    def pruned(self, sites: Mapping[str, Site]) -> dict[str, int]:
        """How many weights each site loses."""
        return {name: pruned_count(site.size, self.sparsity) for name, site in sites.items()}


def masks(sites: Mapping[str, Site], params: Arrays, pruned: Mapping[str, Any]) -> dict[str, Any]:
    """The weights that stay at each site, as booleans."""
    return {name: magnitude_mask(params[name], pruned[name]) for name in sites}


def observe(predict: Predict, sites: Mapping[str, Site]) -> Callable[..., dict[str, jax.Array]]:
    """(params, state, inputs, pruned) -> the largest magnitude of each site's inputs.

    `pruned` maps sites to counts, which may be traced.
    """

    def run(
        params: Arrays, state: Arrays, inputs: jax.Array, pruned: Mapping[str, Any]
    ) -> dict[str, jax.Array]:
        seen = {name: jnp.zeros((), jnp.float32) for name in sites}

        def handler(product: Product, x: jax.Array, weight: jax.Array) -> jax.Array:
            name = product.site.weight
            seen[name] = jnp.maximum(seen[name], jnp.max(jnp.abs(x)).astype(jnp.float32))
            return product.run(x, weight.astype(x.dtype), product.dtype)

        kept = masks(sites, params, pruned)
        masked = {n: jnp.where(kept[n], w, 0.0) if n in kept else w for n, w in params.items()}
        replace_products(predict, sites, handler)(masked, state, inputs)
        return seen

    return run


def simulate(predict: Predict, sites: Mapping[str, Site]) -> Callable[..., Any]:
    """(params, state, inputs, pruned, ranges, weight_bits, activation_bits) -> outputs.

    Everything but the shapes may be traced; 32 bits leave a side in float32. `ranges` come from
    `observe`.
    """

    def run(
        params: Arrays,
        state: Arrays,
        inputs: jax.Array,
        pruned: Mapping[str, Any],
        ranges: Mapping[str, jax.Array],
        weight_bits: jax.Array | int,
        activation_bits: jax.Array | int,
    ) -> Any:
        whole_weights = jnp.asarray(weight_bits) < FLOAT_BITS
        whole_inputs = jnp.asarray(activation_bits) < FLOAT_BITS
        kept = masks(sites, params, pruned)

        def handler(product: Product, x: jax.Array, weight: jax.Array) -> jax.Array:
            site = product.site
            masked = jnp.where(kept[site.weight], weight, 0.0)
            w_codes, w_step = quantize_weights(masked, site.axes, weight_bits)
            w = jnp.where(whole_weights, w_codes, masked)
            w_step = jnp.where(whole_weights, w_step, 1.0)
            limit = largest_code(activation_bits)
            x_step = scale(ranges[site.weight], limit)
            x = jnp.where(whole_inputs, codes(x, x_step, limit), x)
            x_step = jnp.where(whole_inputs, x_step, 1.0)
            y = product.run(x, w, jnp.float32)
            return (y * product.spread(w_step * x_step)).astype(product.dtype)

        return replace_products(predict, sites, handler)(params, state, inputs)

    return run


def compress(
    recipe: Recipe,
    sites: Mapping[str, Site],
    params: Arrays,
    state: Arrays,
    ranges: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    """The arrays that the deployed program takes.

    Returns:
        Every parameter and state array under its name; a quantised site's weight as int8 codes,
        with its per-channel scales under `NAME.scale` (float32, rank of the weight); the step and
        the largest code of its quantised inputs under `NAME.input` (float32, shape (2,)).
    """
    pruned = recipe.pruned(sites)
    kept = masks(sites, params, pruned)
    out = {**params, **state}
    for name, site in sites.items():
        weight = jnp.where(kept[name], params[name], 0.0)
        out[name] = weight
        if recipe.weights_quantized:
            w_codes, step = quantize_weights(weight, site.axes, recipe.weight_bits)
            out[name], out[f"{name}.scale"] = w_codes.astype(jnp.int8), step
        if recipe.inputs_quantized:
            limit = largest_code(recipe.activation_bits)
            out[f"{name}.input"] = jnp.stack([scale(ranges[name], limit), limit])
    return out


def deployed_shapes(
    recipe: Recipe, sites: Mapping[str, Site], params: Arrays, state: Arrays
) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of what `compress` returns, from the shapes of what it takes."""
    ranges = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in sites}
    return jax.eval_shape(  # type: ignore[no-any-return]
        lambda *args: compress(recipe, sites, *args), params, state, ranges
    )


def deploy(
    predict: Predict, sites: Mapping[str, Site], recipe: Recipe, state_names: tuple[str, ...]
) -> Callable[[Arrays, jax.Array], Any]:
    """The program (arrays of `compress`, inputs) -> outputs.

    A site with whole weights and inputs multiplies int8 by int8 into int32; with whole weights
    alone it multiplies in float32 and scales the result. It is one program for all bit-widths.

    Args:
        predict: the model in inference mode.
        sites: its sites.
        recipe: says which sides are quantised; its numbers are in the arrays.
        state_names: which of the arrays are state.
    """

    def run(arrays: Arrays, inputs: jax.Array) -> Any:
        def handler(product: Product, x: jax.Array, weight: jax.Array) -> jax.Array:
            name = product.site.weight
            step = jnp.ones((), jnp.float32)
            if recipe.weights_quantized:
                step = product.spread(arrays[f"{name}.scale"])
            if recipe.inputs_quantized:
                x_step, limit = arrays[f"{name}.input"]
                x, step = codes(x, x_step, limit), step * x_step
            if recipe.weights_quantized and recipe.inputs_quantized:
                y = product.run(x.astype(jnp.int8), weight, jnp.int32).astype(jnp.float32)
            else:
                y = product.run(x.astype(jnp.float32), weight.astype(jnp.float32), jnp.float32)
            quantized = recipe.weights_quantized or recipe.inputs_quantized
            return (y * step if quantized else y).astype(product.dtype)

        suffixes = (".scale", ".input")
        derived = {n + s for n in sites for s in suffixes}
        params = {k: v for k, v in arrays.items() if k not in derived and k not in state_names}
        state = {k: arrays[k] for k in state_names}
        return replace_products(predict, sites, handler)(params, state, inputs)

    return run
