"""Training on the grid: each product takes values as the deployed program will round them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from paretax.spaces.compression import INPUT_STEP, WEIGHT_STEP, Grid
from paretax.spaces.own_derivatives import OwnDerivatives
from paretax.spaces.products import Product, replace_products
from paretax.spaces.quantization import expand, learned_step, straight_through
from paretax.spaces.sites import Arrays, Site

LEARNED = (WEIGHT_STEP, INPUT_STEP)
"""Suffixes of the parameters that training adds where it learns the steps."""


def first_steps(grid: Grid) -> dict[str, jax.Array]:
    """Where learned steps begin: at the logarithms of the calibrated ones."""
    learned = {}
    for name, numbers in grid.items():
        learned[f"{name}{WEIGHT_STEP}"] = jnp.log(numbers["weight_step"])
        learned[f"{name}{INPUT_STEP}"] = jnp.log(numbers["input_step"])
    return learned


def train_on_grid(
    apply: Callable[..., Any],
    sites: Mapping[str, Site],
    *,
    learn: bool,
    watch: str | None = None,
    within: set[str] | None = None,
) -> Callable[..., tuple[Any, Any]]:
    """The model in training mode, on the grid.

    Args:
        apply: (params, state, inputs, key) -> (outputs, new state).
        sites: of the model.
        learn: whether the steps are parameters (LSQ); otherwise gradients pass straight through.
        watch: a site whose inputs are returned as features; None: none.
        within: gets the sites within something that has a derivative of its own (`custom_vjp`).
            Gradients pass by that one, straight through the rounding of a site's inputs.

    Returns:
        (params, state, inputs, key, grid) -> ((outputs, new state), features). An empty grid
        leaves everything in floating point.
    """

    def on_grid(given: Any) -> jax.Array:
        weight, numbers = given["weight"], given.get("grid")
        if numbers is None:
            return weight  # type: ignore[no-any-return]
        return _on_grid(weight, numbers, given.get("learned"), "weight", learn)

    own = OwnDerivatives(
        weight=on_grid,
        read=lambda given: given["weight"],
        write=lambda given, weight: {**given, "weight": weight},
        seen=set() if within is None else within,
    )

    def handler(product: Product, x: jax.Array, given: Any) -> tuple[jax.Array, Any]:
        weight, numbers = given["weight"], given.get("grid")
        seen = x if product.site.weight == watch else None
        if numbers is None:
            return product.run(x, weight.astype(product.weight_dtype), product.dtype), seen
        learned = given.get("learned")
        weight = on_grid(given)
        if product.site.kind != "embedding":
            x = _on_grid(x, numbers, learned, "input", learn)
        return product.run(x, weight, jnp.float32).astype(product.dtype), seen

    def run(
        params: Arrays, state: Arrays, inputs: jax.Array, key: jax.Array, grid: Grid
    ) -> tuple[Any, Any]:
        given: dict[str, Any] = {n: v for n, v in params.items() if not n.endswith(LEARNED)}
        for name in sites:
            given[name] = {"weight": params[name]}
            if name in grid:
                given[name]["grid"] = grid[name]
            if name in grid and learn:
                steps = (params[f"{name}{WEIGHT_STEP}"], params[f"{name}{INPUT_STEP}"])
                given[name]["learned"] = dict(zip(("weight", "input"), steps, strict=True))
        replaced = replace_products(apply, sites, handler, own=own)
        result, notes = replaced(given, state, inputs, key)
        if watch is None:
            return result, None
        features = notes[watch]
        for _ in range(sites[watch].stack):  # of a scan, the last round's
            features = features[-1]
        return result, features

    return run


def _on_grid(
    values: jax.Array, numbers: Mapping[str, jax.Array], learned: Any, side: str, learn: bool
) -> jax.Array:
    """The values in float32, as steps and codes are, whatever their own dtype is."""
    limit, whole = numbers[f"{side}_limit"], numbers[f"whole_{side}s"]
    exact = values.astype(jnp.float32)
    if learn:
        step = jnp.exp(learned[side])
        sharing = values.size / step.size
        step = expand(step, values.shape) if step.ndim else step
        rounded = learned_step(exact, step, limit, sharing)
    else:
        step = numbers[f"{side}_step"]
        rounded = straight_through(exact, expand(step, values.shape) if step.ndim else step, limit)
    return jnp.where(whole, rounded, exact)
