"""Quantisation after training: one symmetric grid for weights and activations.

A value x is stored as the integer q = clip(round(x / s), -Q, Q), Q = 2^(b-1) - 1 for b bits, and
stands for q s (Jacob et al., 2018, arXiv:1712.05877, equation 1 with zero point 0; Q leaves out
-2^(b-1), so the grid is symmetric). Weights have a scale s for each output channel, s = max|w| / Q;
an activation has one, from the largest magnitude that the calibration data gave.

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

from paretax.spaces.dimensions import Setting, is_whole

FLOAT_BITS = 32
"""The width that means no quantisation."""

_SMALLEST = float(np.finfo(np.float32).tiny)  # a smaller step has no finite reciprocal

_ACTIVE_BITS = Setting(
    name="activation_bits",
    default=8,
    rule="a whole number from 2 to 8",
    allows=lambda v: is_whole(v) and 2 <= int(v) <= 8,
)
_WEIGHT_BITS = Setting(
    name="weight_bits",
    default=8,
    rule="a whole number from 2 to 8",
    allows=lambda v: is_whole(v) and 2 <= int(v) <= 8,
)
_SWITCH = Setting(
    name="quantize", default=False, rule="true or false", allows=lambda v: isinstance(v, bool)
)
SETTINGS = (_SWITCH, _WEIGHT_BITS, _ACTIVE_BITS)


def widths(config: Mapping[str, Any]) -> tuple[int, int]:
    """The bits of weights and of activations that a candidate asks for; 32 is float32.

    `quantize: true` alone means 8 and 8. A width in the candidate without `quantize` switches its
    own side on; `quantize: false` switches both off.
    """
    if config.get("quantize") is False:
        return FLOAT_BITS, FLOAT_BITS
    whole = config.get("quantize") is True
    sides = (_WEIGHT_BITS, _ACTIVE_BITS)
    weight, active = (int(config.get(s.name, s.default if whole else FLOAT_BITS)) for s in sides)
    return weight, active


def largest_code(bits: jax.Array | int) -> jax.Array:
    """Q = 2^(bits - 1) - 1 as float32; `bits` may be traced."""
    return jnp.exp2(jnp.asarray(bits, jnp.float32) - 1.0) - 1.0


def scale(largest: jax.Array, limit: jax.Array) -> jax.Array:
    """The step of the grid that reaches `largest` at the code `limit`; 1 where it vanishes."""
    step = largest * (1.0 / limit)
    return jnp.where(step >= _SMALLEST, step, 1.0)


def codes(values: jax.Array, step: jax.Array, limit: jax.Array) -> jax.Array:
    """Q = clip(round(x / s), -Q, Q), whole numbers held in float32."""
    return jnp.clip(jnp.round(values * (1.0 / step)), -limit, limit)


def quantize_weights(
    weights: jax.Array, axes: tuple[int, ...], bits: jax.Array | int
) -> tuple[jax.Array, jax.Array]:
    """Integers and scales of a weight tensor.

    Args:
        weights: float32.
        axes: the axes over which one output channel's weights lie.
        bits: 2 to 8; may be traced.

    Returns:
        Codes (whole numbers in float32, the shape of `weights`), and scales of the same rank with
        length 1 along `axes`.
    """
    limit = largest_code(bits)
    step = scale(jnp.max(jnp.abs(weights), axis=axes, keepdims=True), limit)
    return codes(weights, step, limit), step
