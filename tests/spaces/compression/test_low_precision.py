"""Products in a model's own low precision, against a naive version that rounds step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.spaces.compression import (
    compress,
    deploy,
    grid,
    in_stored_format,
    observe,
    simulate,
    widths_of,
)
from paretax.spaces.recipe import Recipe
from paretax.spaces.sites import find_sites

AS_WRITTEN = {"xla_allow_excess_precision": False}  # as the processes of paretax run
ONE = np.float32(1)

KINDS: Mapping[str, tuple[Any, Any]] = {  # of parameters, of products
    "bfloat16": (jnp.bfloat16, jnp.bfloat16),
    "float16": (jnp.float16, jnp.float16),
    "mixed": (jnp.float32, jnp.bfloat16),
    "low weights": (jnp.bfloat16, jnp.float32),
}
BITS: Mapping[str, tuple[int, int]] = {
    "nothing": (32, 32),
    "8 and 8": (8, 8),
    "3 and 5": (3, 5),
    "weights alone": (4, 32),
    "inputs alone": (32, 6),
}


def rounded(values: Any, dtype: Any) -> np.ndarray:
    """Values that a dtype holds, in float64."""
    held = np.asarray(values).astype(np.float32).astype(jnp.dtype(dtype))
    return held.astype(np.float64)


def codes_of(values: np.ndarray, largest: Any, bits: int) -> tuple[np.ndarray, Any]:
    """Whole numbers and their step, in float32 as the grid has it."""
    limit = np.float32(2 ** (bits - 1) - 1)
    step = np.float32(largest) * (ONE / limit)
    return np.clip(np.rint(values.astype(np.float32) * (ONE / step)), -limit, limit), step


def naive_product(
    x: np.ndarray, w: np.ndarray, low: Any, bits: tuple[int, int], largest: Any
) -> np.ndarray:
    """x and w as float64, of which sums are exact where the test's numbers have few digits."""
    x, x_step = rounded(x, low), ONE
    w_step: Any = ONE
    if bits[0] < 32:
        pairs = [codes_of(column, np.abs(column).max(), bits[0]) for column in w.T]
        w, w_step = np.stack([c for c, _ in pairs], 1), np.stack([s for _, s in pairs])
    else:
        w = rounded(w, low)
    if bits[1] < 32:
        x, x_step = codes_of(x, largest, bits[1])
    total = (x.astype(np.float64) @ w.astype(np.float64)).astype(np.float32)
    return rounded(total * (w_step * x_step), low)


def naive(p: Mapping[str, np.ndarray], x: np.ndarray, low: Any, bits: tuple[int, int]) -> Any:
    """The model; ranges are those of its layers without a grid."""

    def hidden(bits: tuple[int, int]) -> np.ndarray:
        y = naive_product(x, p["one"], low, bits, np.abs(rounded(x, low)).max())
        kept: np.ndarray = np.maximum(rounded(y + rounded(p["bias"], low), low), 0)
        return kept

    return naive_product(hidden(bits), p["two"], low, bits, hidden((32, 32)).max())


@pytest.mark.parametrize("how", BITS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_rounding_is_where_the_model_has_it(kind: str, how: str) -> None:
    own, low = KINDS[kind]
    rng = np.random.default_rng(3)

    def drawn(*shape: int) -> np.ndarray:
        return rng.integers(-31, 32, shape) / 16

    params = {"one": drawn(8, 6), "bias": drawn(6), "two": drawn(6, 5)}
    arrays = {n: jnp.asarray(a, own) for n, a in params.items()}
    x = jnp.asarray(rng.integers(-15, 16, (9, 8)) / 8, jnp.float32)

    def predict(p: Any, s: Any, x: Any) -> Any:
        y = x.astype(low) @ p["one"].astype(low) + p["bias"].astype(low)
        return jax.nn.relu(y) @ p["two"].astype(low)

    def as_written(function: Any) -> Any:
        return jax.jit(function, compiler_options=AS_WRITTEN)

    sites = find_sites(predict, arrays, {}, x)
    sides = dict(zip(("weight_bits", "activation_bits"), BITS[how], strict=True))
    recipe = Recipe.of({n: b for n, b in sides.items() if b < 32}, sites)
    ranges = as_written(observe(predict, sites))(arrays, {}, x)
    steps = grid(recipe, sites, arrays, ranges, widths_of(recipe), {})
    deployed = as_written(deploy(predict, sites, recipe, ()))
    found = deployed(compress(recipe, sites, arrays, {}, steps), x)
    scored = as_written(simulate(predict, sites, recipe))
    again = scored(in_stored_format(recipe, sites, arrays), {}, x, steps)
    expected = naive(params, np.asarray(x, np.float64), low, BITS[how])
    assert found.dtype == again.dtype == low
    assert len(np.unique(expected)) > 20
    room = 1e-6 * np.abs(expected).max() if low == jnp.float32 else 0.0  # sums of more digits
    for outputs in (found, again):
        np.testing.assert_allclose(
            np.asarray(outputs).astype(np.float64), expected, rtol=0.0, atol=room
        )
