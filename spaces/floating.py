"""Products in a floating-point format that is not the model's own, and the formats themselves.

A site of which nothing is asked is not changed at all: it is stored in its own dtype, and
multiplied as the program does. Any other format holds both operands; sums are float32, and the
program goes on with a result of its own dtype.

The result of a convolution in 16 bits is rounded to these 16 bits on its way, as libraries of
convolutions have no kernel that takes 16 bits and gives 32: asked for float32, XLA:GPU converts the
operands and calls cuDNN in float32, which is slower than the model was. Convolutions of float8 are
multiplied in bfloat16, which holds every float8, for the same reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paretax.spaces.products import Product
from paretax.spaces.quantization import FLOAT8_LIMIT, PRECISIONS, expand
from paretax.spaces.sites import Site

_BITS = {"bfloat16": (8, 7), "float16": (5, 10)}
"""Of the exponent and the mantissa."""


def format_of(name: str) -> np.dtype[Any]:
    """The dtype of a format: one of `PRECISIONS`, or a dtype's own name."""
    found: np.dtype[Any] = jnp.dtype(PRECISIONS.get(name, name))
    return found


def stored_format(site: Site, precision: str) -> str:
    """The name of the format in which a site's weights are kept, where they stay in floating point.

    A wider one than the weights' own would hold no more of them, and is only computed in.
    """
    if precision in ("float8", site.dtype):
        return precision
    wider = jnp.promote_types(format_of(site.dtype), format_of(precision))
    return site.dtype if wider == format_of(precision) else precision


def float_product(
    product: Product, x: jax.Array, given: Mapping[str, Any], precision: str
) -> jax.Array:
    """The product of a site that stays in floating point, in another format than the model's.

    Args:
        product: as the program does it.
        x: its inputs.
        given: `weight`, in any format; of float8 its steps, `weight_step` and `input_step`.
        precision: one of `PRECISIONS`.
    """
    dtype = format_of(precision)
    if precision == "float8":
        return _float8_product(product, x, given).astype(product.dtype)
    narrow = product.dtype == dtype or (dtype.itemsize == 2 and product.is_convolution)
    result = dtype if narrow else jnp.float32
    if product.site.kind != "embedding":
        x = x.astype(dtype)
    y = product.run(x, given["weight"].astype(dtype), result)
    return y if y.dtype == product.dtype else _widened(y).astype(product.dtype)


def _widened(y: jax.Array) -> jax.Array:
    """A result of fewer bits in float32, rounded to these bits for sure.

    A library that XLA:CPU hands some sums to (YNNPACK) drops a conversion to 16 bits and back; it
    drops no `reduce_precision`.
    """
    exact = y.astype(jnp.float32)
    if y.dtype.name not in _BITS:
        return exact
    exponent, mantissa = _BITS[y.dtype.name]
    return jax.lax.reduce_precision(exact, exponent_bits=exponent, mantissa_bits=mantissa)


def _float8_product(product: Product, x: jax.Array, given: Mapping[str, Any]) -> jax.Array:
    weight, step = given["weight"], given["weight_step"]
    if weight.dtype != format_of("float8"):
        weight = to_float8(weight, step)
    if product.site.kind == "embedding":
        rows: jax.Array = product.bare(x, weight, jnp.float32) * product.spread(step)
        return rows
    x, dtype = to_float8(x, given["input_step"]), jnp.float32
    if product.is_convolution:
        x, weight, dtype = x.astype(jnp.bfloat16), weight.astype(jnp.bfloat16), jnp.bfloat16
    return scaled_product(product, x, weight, step, given["input_step"], dtype)


def to_float8(values: jax.Array, step: jax.Array) -> jax.Array:
    """Values over their step, in float8; values beyond its range are cut."""
    step = expand(step, values.shape) if step.ndim else step
    cut = jnp.clip(values.astype(jnp.float32) * (1.0 / step), -FLOAT8_LIMIT, FLOAT8_LIMIT)
    eighth: jax.Array = cut.astype(format_of("float8"))
    return eighth


def scaled_product(
    product: Product, x: jax.Array, weight: jax.Array, step: jax.Array, x_step: Any, dtype: Any
) -> jax.Array:
    """The product by codes, times their steps; group by group where groups have their own."""
    axis = product.site.inner_axis
    groups = step.shape[axis]
    if axis not in product.site.axes or groups == 1:
        y = _widened(product.bare(x, weight, dtype))
        whole: jax.Array = y * (product.spread(step) * x_step)
        return whole
    total = jnp.zeros((), jnp.float32)
    parts = jnp.split(x, groups, product.inputs_axis(axis)), jnp.split(weight, groups, axis)
    for part_x, part_w, part_step in zip(*parts, jnp.split(step, groups, axis), strict=True):
        y = _widened(product.bare(part_x, part_w, dtype))
        total = total + y * (product.spread(part_step) * x_step)
    return total
