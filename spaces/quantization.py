"""Quantisation: one symmetric grid for weights and activations.

A value x is stored as the integer q = clip(round(x / s), -Q, Q), Q = 2^(b-1) - 1 for b bits, and
stands for q s (Jacob et al., 2018, arXiv:1712.05877, equation 1 with zero point 0; Q leaves out
-2^(b-1), so the grid is symmetric). Weights have a scale s for each output channel, for the whole
tensor, or for groups of neighbouring inputs as well; an activation has one, from calibration data
(`calibration`) or learned in training.

The search computes with these integers held in float32, the exported program with int8; a
product of two is exact in both, and so is a sum of them while it stays below 2^24 in float32.
Divisions are products with a rounded reciprocal, written out: XLA makes them so in some programs
and not in others, and the last bit would differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paretax.spaces.dimensions import Setting, choice, is_number, is_whole, switch, whole
from paretax.spaces.rules import resolve
from paretax.spaces.sites import Site

FLOAT_BITS = 32
"""The width that means no quantisation."""

MODEL = "model"
"""The precision that is asked for where nothing is: the model's own, of weights and products."""

PRECISIONS: Mapping[str, Any] = {
    "float32": jnp.float32,
    "bfloat16": jnp.bfloat16,
    "float16": jnp.float16,
    "float8": jnp.float8_e4m3fn,
}
"""Floating-point formats of sites whose weights and inputs are not whole numbers."""

FLOAT8_LIMIT = 448.0  # the largest finite e4m3fn (Micikevicius et al., 2022, arXiv:2209.05433)
_SMALLEST = float(np.finfo(np.float32).tiny)  # a smaller step has no finite reciprocal
_EDGE = 1.0 + 2.0**-20


def _is_width(value: Any) -> bool:
    return is_whole(value) and 2 <= int(value) <= 8


def _width(name: str) -> Setting:
    rule = "a whole number from 2 to 8"
    return Setting(name=name, default=8, rule=rule, allows=_is_width, per_site=True, number=True)


SETTINGS = (
    switch("quantize"),
    _width("weight_bits"),
    _width("activation_bits"),
    choice("precision", MODEL, *PRECISIONS, per_site=True),
    choice("weight_scales", "channel", "tensor", "group"),
    whole("group_size", 32, least=2),
    choice("calibration", "absmax", "percentile", "mse"),
    Setting(
        name="calibration_percentile",
        default=99.9,
        rule="a number above 50 and at most 100",
        number=True,
        allows=lambda v: is_number(v) and 50 < float(v) <= 100,
    ),
    choice("qat", "none", "ste", "lsq"),
)


def widths(config: Mapping[str, Any], sites: Mapping[str, Site]) -> dict[str, tuple[int, int]]:
    """The bits of weights and of inputs that a candidate asks for at each site; 32 is float.

    `quantize: true` alone means 8 and 8. A width in the candidate without `quantize` switches its
    own side on; `quantize: false` switches both off. An embedding's inputs are whole numbers
    anyway, and count as 32.
    """
    if config.get("quantize") is False:
        return dict.fromkeys(sites, (FLOAT_BITS, FLOAT_BITS))
    default = 8 if config.get("quantize") is True else FLOAT_BITS
    weight = resolve("weight_bits", config, default, sites)
    active = resolve("activation_bits", config, default, sites)
    return {
        name: (int(weight[name]), FLOAT_BITS if site.kind == "embedding" else int(active[name]))
        for name, site in sites.items()
    }


def largest_code(bits: jax.Array | int) -> jax.Array:
    """Q = 2^(bits - 1) - 1 as float32; `bits` may be traced."""
    return jnp.exp2(jnp.asarray(bits, jnp.float32) - 1.0) - 1.0


def scale(largest: jax.Array, limit: jax.Array | float) -> jax.Array:
    """The step of the grid that reaches `largest` at the code `limit`; 1 where it vanishes."""
    step = largest * (1.0 / limit)
    return jnp.where(step >= _SMALLEST, step, 1.0)


def codes(values: jax.Array, step: jax.Array, limit: jax.Array) -> jax.Array:
    """Q = clip(round(x / s), -Q, Q), whole numbers held in float32."""
    return jnp.clip(jnp.round(values * (1.0 / step)), -limit, limit)


def group_length(site: Site, scales: str, group_size: int) -> int | None:
    """How many neighbouring inputs share a scale; None where all inputs of a channel do.

    Sites whose number of inputs the group size does not divide keep one scale a channel, as do
    embeddings, convolutions in feature groups, and weights whose inputs are no axis of their own.
    """
    if scales != "group" or site.kind == "embedding" or site.grouped or not site.whole:
        return None
    length = site.shape[site.inner_axis]
    return group_size if length > group_size and length % group_size == 0 else None


def scale_axes(site: Site, scales: str) -> tuple[int, ...]:
    """The axes of a weight along which a scale is shared."""
    if scales == "tensor":
        return tuple(range(site.stack, len(site.shape)))
    return site.axes


def largest_weight(
    weights: jax.Array, axes: tuple[int, ...], group: tuple[int, int] | None
) -> jax.Array:
    """The largest magnitude under each scale: the rank of the weight, length 1 along `axes`.

    Args:
        weights: any shape.
        axes: along which a scale is shared.
        group: an axis and how many neighbours along it share a scale; that axis then has the
            number of groups as its length.
    """
    if group is None:
        return jnp.max(jnp.abs(weights), axis=axes, keepdims=True)
    axis, length = group
    shape = [*weights.shape[:axis], -1, length, *weights.shape[axis + 1 :]]
    others = tuple(a if a < axis else a + 1 for a in axes if a != axis)
    split = jnp.abs(weights).reshape(shape)
    largest = jnp.max(split, axis=(*others, axis + 1), keepdims=True)
    return jnp.squeeze(largest, axis + 1)


def expand(step: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Scales of groups, repeated to stand beside each weight."""
    for axis, (have, want) in enumerate(zip(step.shape, shape, strict=True)):
        if have not in (1, want):
            step = jnp.repeat(step, want // have, axis=axis)
    return step


def straight_through(values: jax.Array, step: jax.Array, limit: jax.Array) -> jax.Array:
    """Values on the grid, with the gradient of clipping alone (Bengio et al., arXiv:1308.3432).

    Args:
        values: float32.
        step: broadcasts against them; gets no gradient.
        limit: the largest code.
    """
    on_grid = jax.lax.stop_gradient(codes(values, step, limit) * step)
    # The largest weight of a channel lies on the edge, but for rounding, and still learns.
    inside = jnp.abs(values) <= jax.lax.stop_gradient(limit * step) * _EDGE
    return on_grid + jnp.where(inside, values - jax.lax.stop_gradient(values), 0.0)


def learned_step(values: jax.Array, step: jax.Array, limit: jax.Array, sharing: float) -> jax.Array:
    """Values on the grid, with a gradient for the step (LSQ: Esser et al., 2020, arXiv:1902.08153).

    Equations 1 to 3; the step's gradient is scaled by 1 / sqrt(N Q), section 2.2. What is learned
    is the step's logarithm (Jain et al., 2020, arXiv:1903.08066), so that it stays positive, and
    moves in proportion under Adam.

    Args:
        values: float32.
        step: broadcasts against them; positive.
        limit: Q, the largest code.
        sharing: N, how many values are under one step.
    """
    factor = jax.lax.rsqrt(sharing * jnp.asarray(limit, jnp.float32))
    step = step * factor + jax.lax.stop_gradient(step - step * factor)
    ratio = values * (1.0 / step)
    clipped = jnp.clip(ratio, -limit, limit)
    return (clipped + jax.lax.stop_gradient(jnp.round(clipped) - clipped)) * step
