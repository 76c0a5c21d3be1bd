"""Features mapped to their rank in the training split: uniform on [0, 1], or normal.

The training split's quantiles at up to 1,000 even ranks are a table; between two of them the rank
is interpolated, and at a value that several of them share it is their middle, as scikit-learn's
QuantileTransformer has it. `quantile_output: normal` takes the normal distribution's quantile of
the rank, within +-5.2.

A float32 value is below, at or above a float64 quantile exactly as it is for scikit-learn: where
values repeat, the rank jumps. Ranks above the middle are held as their distance from 1, where
float32 has the digits that the normal quantile needs.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from paretax.spaces.dimensions import choice
from paretax.spaces.preprocessing.arithmetic import Pair, minus, pair, parts, rounded
from paretax.spaces.preprocessing.technique import Arrays, Fitted, Technique, Values

_MOST = 1000  # quantiles
_EDGE = 1e-7  # scikit-learn's: the rank nearest to 0 and to 1 that has a finite normal quantile


def _ranks(arrays: Arrays, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The rank u of each value and 1 - u, both to float32's relative precision.

    Args:
        arrays: of the fitted technique.
        x: (batch, features).
    """
    high, low = arrays["high"], arrays["low"]  # (features, quantiles)
    ceiling = jnp.where(low > 0, jnp.nextafter(high, jnp.inf), high)
    floor = jnp.where(low < 0, jnp.nextafter(high, -jnp.inf), high)

    def column(x: jax.Array, high: jax.Array, low: jax.Array, *edges: jax.Array) -> jax.Array:
        ceiling, floor, lowest, highest = edges
        last = high.shape[0] - 1
        at_most = jnp.searchsorted(ceiling, x, side="right") - 1  # the last quantile <= x
        at_least = jnp.searchsorted(floor, x, side="left")  # the first quantile >= x
        i, j = jnp.clip(at_most, 0, last), jnp.clip(at_least, 0, last)
        below, above = Pair(high[i], low[i]), Pair(high[j], low[j])
        tie = at_least <= at_most
        width = jnp.where(tie, 1.0, rounded(minus(above, below)))
        width = jnp.where(width > 0, width, 1.0)
        up = jnp.where(tie, 0.5, rounded(minus(pair(x), below)) / width)
        down = jnp.where(tie, 0.5, rounded(minus(above, pair(x))) / width)
        step = 1.0 / max(last, 1)
        u = step * (i + up * (j - i))
        rest = step * ((last - j) + down * (j - i))
        u, rest = (jnp.where(x >= highest, end, a) for a, end in ((u, 1.0), (rest, 0.0)))
        u, rest = (jnp.where(x <= lowest, end, a) for a, end in ((u, 0.0), (rest, 1.0)))
        return jnp.stack([u, rest])

    edges = (ceiling, floor, arrays["lowest"], arrays["highest"])
    u, rest = jax.vmap(column, in_axes=(1, *[0] * 6), out_axes=2)(x, high, low, *edges)
    return u, rest


def _uniform(arrays: Arrays, table: Pair, inputs: jax.Array) -> Pair:
    return pair(_ranks(arrays, table.high)[0])


def _normal(arrays: Arrays, table: Pair, inputs: jax.Array) -> Pair:
    u, rest = _ranks(arrays, table.high)
    tail = jnp.maximum(jnp.minimum(u, rest), _EDGE)
    quantile = jax.scipy.special.ndtri(tail)
    return pair(jnp.where(u < rest, quantile, -quantile))


def _outermost(start: float, holds: Callable[[np.float64], bool], inwards: float) -> np.float32:
    """The last float32 in the direction `inwards` (an infinity) for which `holds` is true.

    Args:
        start: within a few float32 of it.
        holds: true on the outer side alone.
        inwards: which way is in.
    """
    x, inwards32 = np.float32(start), np.float32(inwards)
    while not holds(np.float64(x)):
        x = np.nextafter(x, -inwards32)
    while holds(np.float64(inner := np.nextafter(x, inwards32))):
        x = inner
    return x


def _edges(quantiles: np.ndarray, normal: bool) -> tuple[np.float32, np.float32]:
    """The highest value whose rank is 0, and the lowest whose rank is 1."""
    first, last = quantiles[0], quantiles[-1]
    if normal:
        return (
            _outermost(first + _EDGE, lambda x: bool(x - _EDGE < first), np.inf),
            _outermost(last - _EDGE, lambda x: bool(x + _EDGE > last), -np.inf),
        )
    return (
        _outermost(first, lambda x: bool(x <= first), np.inf),
        _outermost(last, lambda x: bool(x >= last), -np.inf),
    )


def _fit(values: Values, table: np.ndarray, targets: np.ndarray) -> Fitted:
    output = values["quantile_output"]
    from sklearn.preprocessing import QuantileTransformer

    transformer = QuantileTransformer(
        n_quantiles=min(_MOST, len(table)), output_distribution=output, subsample=None
    ).fit(table)
    quantiles = transformer.quantiles_.T
    high, low = parts(quantiles)
    lowest, highest = zip(*(_edges(q, output == "normal") for q in quantiles), strict=True)
    return Fitted(
        arrays={
            "high": high,
            "low": low,
            "lowest": np.asarray(lowest, np.float32),
            "highest": np.asarray(highest, np.float32),
        },
        apply=_normal if output == "normal" else _uniform,
        reference=lambda table, inputs: np.asarray(transformer.transform(table)),
        words=f"transform: ranks among {quantiles.shape[1]} quantiles, {output} output",
    )


QUANTILE = Technique(
    place="transformation",
    name="quantile",
    settings=(choice("quantile_output", "uniform", "normal"),),
    fit=_fit,
    tabular="it would search a table of quantiles for every pixel or step",
)
