"""Pruning by magnitude: the smallest weights of each layer become zero."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from paretax.spaces.dimensions import Setting, is_number

SETTINGS = (
    Setting(
        name="sparsity",
        default=0.0,
        rule="a share of at least 0 and below 1",
        allows=lambda v: is_number(v) and 0 <= float(v) < 1,
    ),
)


def pruned_count(size: int, sparsity: float) -> int:
    """How many of a tensor's `size` weights are zeroed; at least one always stays."""
    return min(size - 1, round(size * sparsity))


def magnitude_mask(weights: jax.Array, count: jax.Array | int) -> jax.Array:
    """Which weights stay when the `count` smallest in magnitude go (Han et al., 2015).

    Exactly `count` go: of equal ones, those that come first in memory.

    Args:
        weights: any shape.
        count: how many go; may be traced.

    Returns:
        Booleans of the same shape; False is pruned.
    """
    order = jnp.argsort(jnp.abs(weights).ravel(), stable=True)
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=order.dtype))
    return (rank >= count).reshape(weights.shape)
