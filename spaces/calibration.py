"""The range of values that a grid covers, from data: all of it, a percentile, or least error.

A site's inputs are seen as the largest magnitude, and as a histogram of magnitudes between 0 and
it, so that any amount of data takes the same room.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from paretax.spaces.quantization import codes, expand, scale

BINS = 1024
"""Of a histogram."""

_CANDIDATES = 64  # ranges of which the one with the least error is taken
_RATIOS = 24  # likewise for weights, from 0.425 to 1 of the largest


def histogram(values: jax.Array, largest: jax.Array) -> jax.Array:
    """How many magnitudes lie in each of 1,024 equal bins from 0 to `largest`, as int32."""
    width = jnp.where(largest > 0, largest, 1.0) * (1.0 / BINS)
    places = jnp.clip(jnp.floor(jnp.abs(values) * (1.0 / width)), 0, BINS - 1).astype(jnp.int32)
    return jnp.zeros(BINS, jnp.int32).at[places.ravel()].add(1)


def percentile_range(
    counts: jax.Array, largest: jax.Array, percentile: jax.Array | float
) -> jax.Array:
    """The upper end of the bin below which the given percentage of the magnitudes lie.

    Args:
        counts: of `histogram`.
        largest: the upper end of the last bin.
        percentile: above 0, at most 100; may be traced.
    """
    share = jnp.cumsum(counts) / jnp.maximum(counts.sum(), 1)
    place = jnp.argmax(share >= jnp.minimum(percentile * 0.01, share[-1]))
    return largest * (place + 1.0) * (1.0 / BINS)


def least_error_range(counts: jax.Array, largest: jax.Array, limit: jax.Array) -> jax.Array:
    """The range with the least mean squared error of the quantised values.

    The error of each of 64 ranges is summed over the histogram, each bin standing at its centre
    (Sung et al., 2015, arXiv:1511.06488, choose the step likewise).

    Args:
        counts: of `histogram`.
        largest: the upper end of the last bin.
        limit: the largest code; may be traced.
    """
    centres = (jnp.arange(BINS, dtype=jnp.float32) + 0.5) * (1.0 / BINS) * largest
    ranges = largest * (jnp.arange(_CANDIDATES, dtype=jnp.float32) + 1.0) * (1.0 / _CANDIDATES)

    def error(end: jax.Array) -> jax.Array:
        step = scale(end, limit)
        return jnp.sum(counts * jnp.square(codes(centres, step, limit) * step - centres))

    return ranges[jnp.argmin(jax.vmap(error)(ranges))]


def least_error_weights(weights: jax.Array, largest: jax.Array, limit: jax.Array) -> jax.Array:
    """For each scale the range with the least squared error of its weights.

    Args:
        weights: float32.
        largest: of `largest_weight`; the rank of the weights.
        limit: the largest code; may be traced.

    Returns:
        An array like `largest`, no larger than it.
    """
    shape = weights.shape

    def error(ratio: jax.Array) -> jax.Array:
        step = expand(scale(largest * ratio, limit), shape)
        squares = jnp.square(codes(weights, step, limit) * step - weights)
        for axis, (have, whole) in enumerate(zip(largest.shape, shape, strict=True)):
            split = [*squares.shape[:axis], have, whole // have, *squares.shape[axis + 1 :]]
            squares = squares.reshape(split).sum(axis + 1)
        return squares

    ratios = 1.0 - jnp.arange(_RATIOS, dtype=jnp.float32) * (0.6 / _RATIOS)
    errors = jax.lax.map(error, ratios)
    return largest * ratios[jnp.argmin(errors, axis=0)]
