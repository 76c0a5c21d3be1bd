"""Numbers of about 48 bits, held as the sum of two float32.

scikit-learn fits in float64 and a program computes in float32. What a program subtracts (means,
quantiles, centres) and the squares that it compares would lose their last digits in float32, and
all of them where a column's mean is far above its spread; so these are pairs.

The sums are error-free transformations (Knuth, 1998, "The Art of Computer Programming" 2, section
4.2.2, theorem B). The products are of halves of 12 bits (Dekker, 1971, doi:10.1007/BF01397083),
each exact in float32: a compiler that fuses one of them with a sum changes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_TOP_HALF = np.uint32(0xFFFFF000)  # sign, exponent and the first 12 of the 24 significant bits


class Pair(NamedTuple):
    """A number high + low, or an array of them; `low` is at most half a last digit of `high`."""

    high: jax.Array
    low: jax.Array


def pair(x: jax.Array) -> Pair:
    """A float32 array as pairs."""
    return Pair(x, jnp.zeros_like(x))


def parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A float64 array as two of float32: the nearest one, and the nearest to what is left."""
    x = np.asarray(x, np.float64)
    high = x.astype(np.float32)
    return high, (x - high).astype(np.float32)


def total(a: jax.Array, b: jax.Array) -> Pair:
    """The sum without an error; `high` is the rounded one."""
    s = a + b
    t = s - a
    return Pair(s, (a - (s - t)) + (b - t))


def halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two float32 of at most 12 significant bits each, whose sum is x."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    top = jax.lax.bitcast_convert_type(bits & _TOP_HALF, jnp.float32)
    return top, x - top


def product(a: jax.Array, b: jax.Array) -> Pair:
    """The product, to 2^-46 of itself."""
    a_top, a_rest = halves(a)
    b_top, b_rest = halves(b)
    crossed = total(a_top * b_rest, a_rest * b_top)
    whole = total(a_top * b_top, crossed.high)
    return total(whole.high, whole.low + (crossed.low + a_rest * b_rest))


def times(a: Pair, b: Pair) -> Pair:
    """The product, to about 2^-44 of itself."""
    whole = product(a.high, b.high)
    return total(whole.high, whole.low + (a.high * b.low + a.low * b.high))


def plus(a: Pair, b: Pair) -> Pair:
    """The sum, to about 2^-46 of the larger of the two; exact where both `low` are 0."""
    whole = total(a.high, b.high)
    return total(whole.high, whole.low + (a.low + b.low))


def minus(a: Pair, b: Pair) -> Pair:
    """The difference a - b, with the error of `plus`."""
    return plus(a, Pair(-b.high, -b.low))


def rounded(a: Pair) -> jax.Array:
    """The nearest float32."""
    return a.high + a.low
