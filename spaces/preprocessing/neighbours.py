"""Missing values filled with the mean of the k nearest training rows that have the feature.

O. Troyanskaya et al., "Missing value estimation methods for DNA microarrays", Bioinformatics 17(6),
2001, doi:10.1093/bioinformatics/17.6.520. The distance is scikit-learn's (J. K. Dixon, "Pattern
Recognition with Partly Missing Data", IEEE Trans. SMC 9(10), 1979), here squared, which keeps the
order: over the features that both rows have, sum (x_i - t_i)^2 times features / shared features. A
row that shares no feature with any donor gets the feature's mean.

The features are in their own units: one in large units outweighs the others.

Which donors are nearest is decided by numbers of about 44 bits, from differences that are exact;
float32 alone would take other donors. Where donors are equally far, those that come first in the
training split are taken; scikit-learn takes whichever its partial sort leaves in front, so the two
may differ where the k-th and the next donor are equally far, and only there. scikit-learn expands
the square, with an error of about 1e-16 times the squared magnitude of the data.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from paretax.errors import UsageError
from paretax.spaces.dimensions import whole
from paretax.spaces.preprocessing.arithmetic import (
    Pair,
    halves,
    pair,
    parts,
    product,
    times,
    total,
)
from paretax.spaces.preprocessing.technique import Arrays, Fitted, Sizes, Technique, Values

_COARSE_BITS = 12  # the sum of up to 2^12 donors' coarse parts is exact in float32


def _square_added(sum_: Pair, d: Pair) -> Pair:
    """The sum with d^2 added, from products that are exact but for the smallest."""
    top, rest = halves(d.high)
    first = total(sum_.high, top * top)
    second = total(first.high, 2 * (top * rest))
    small = rest * rest + 2 * (d.high * d.low)
    return total(second.high, second.low + (first.low + (sum_.low + small)))


def _squared_distances(x: jax.Array, arrays: Arrays) -> tuple[Pair, jax.Array]:
    """Squared distances (batch, donors), and whether any feature is shared.

    Args:
        x: (batch, features), NaN where missing.
        arrays: of the fitted technique.
    """
    scale = arrays["scale"]
    donors = (arrays["coarse"] + arrays["fine"]) * scale
    present = ~jnp.isnan(x)
    rows = jnp.where(present, x, 0.0) * scale
    zero = jnp.zeros((x.shape[0], donors.shape[0]), jnp.float32)

    def add(
        state: tuple[Pair, jax.Array], feature: tuple[jax.Array, ...]
    ) -> tuple[tuple[Pair, jax.Array], None]:
        sum_, shared = state
        row, row_has, donor, donor_has = feature
        both = row_has[:, None] & (donor_has[None, :] > 0)
        d = total(row[:, None], -donor[None, :])
        d = Pair(jnp.where(both, d.high, 0.0), jnp.where(both, d.low, 0.0))
        return (_square_added(sum_, d), shared + both), None

    features = (rows.T, present.T, donors.T, arrays["known"].T)
    start = (Pair(zero, zero), zero.astype(jnp.int32))
    (sum_, shared), _ = jax.lax.scan(add, start, features)
    count = donors.shape[1]
    share = Pair(*(jnp.asarray(p)[shared] for p in parts(count / np.maximum(1, range(count + 1)))))
    return times(sum_, share), shared > 0


def _mean(coarse: jax.Array, fine: jax.Array, count: jax.Array) -> jax.Array:
    """(coarse + fine) / count, rounded once."""
    sum_ = total(coarse, fine)
    first = sum_.high / count
    back = product(first, count)
    return first + (((sum_.high - back.high) - back.low) + sum_.low) / count


def _fill(arrays: Arrays, table: Pair, inputs: jax.Array) -> Pair:
    x = table.high
    distance, defined = _squared_distances(x, arrays)
    index = jax.lax.broadcasted_iota(jnp.int32, defined.shape, 1)
    keys = (jnp.where(defined, distance.high, jnp.inf), jnp.where(defined, distance.low, 0.0))
    *_, order = jax.lax.sort((*keys, index), dimension=1, num_keys=2, is_stable=True)
    usable = jnp.take_along_axis(defined, order, axis=1)

    def column(feature: tuple[jax.Array, ...]) -> jax.Array:
        coarse, fine, known, fill = feature
        donor = usable & (known[order] > 0)
        near = donor & (jnp.cumsum(donor, axis=1, dtype=jnp.int32) <= arrays["neighbours"])
        whole, rest = (jnp.sum(jnp.where(near, a[order], 0.0), axis=1) for a in (coarse, fine))
        count = jnp.sum(near, axis=1).astype(jnp.float32)
        return jnp.where(count > 0, _mean(whole, rest, jnp.maximum(count, 1.0)), fill)

    columns = (arrays["coarse"].T, arrays["fine"].T, arrays["known"].T, arrays["fill"])
    filled = jax.lax.map(column, columns).T
    return pair(jnp.where(jnp.isnan(x), filled, x))


def _power_of_two(largest: np.ndarray) -> np.ndarray:
    """The power of two next above each magnitude; 1 where it is 0."""
    return np.where(largest > 0, np.exp2(np.frexp(largest)[1]), 1.0)


def _fit(values: Values, table: np.ndarray, targets: np.ndarray) -> Fitted:
    neighbours = values["imputation_neighbors"]
    from sklearn.impute import KNNImputer

    imputer = KNNImputer(n_neighbors=neighbours).fit(table)
    known = ~np.isnan(table)
    donors = np.where(known, table, 0.0)
    largest = np.abs(donors).max(axis=0)
    grid = _power_of_two(largest) * 2.0**-_COARSE_BITS
    coarse = np.round(donors / grid) * grid

    def reference(table: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        return np.asarray(imputer.transform(table)).astype(np.float32).astype(np.float64)

    return Fitted(
        arrays={
            "coarse": coarse.astype(np.float32),
            "fine": (donors - coarse).astype(np.float32),
            "known": known.astype(np.int32),
            "fill": np.nanmean(table, axis=0).astype(np.float32),
            "neighbours": np.asarray(neighbours, np.int32),
            "scale": np.asarray(1 / _power_of_two(largest.max()), np.float32),
        },
        apply=_fill,
        reference=reference,
        words=f"impute missing values: knn, {neighbours} neighbours",
    )


def _check(values: Values, sizes: Sizes, targets: np.ndarray) -> None:
    neighbours = values["imputation_neighbors"]
    if neighbours > sizes.examples:
        raise UsageError(
            "imputation_neighbors must be at most the number of training examples, "
            f"{sizes.examples}, got {neighbours}: lower it"
        )


NEIGHBOURS = Technique(
    place="imputation",
    name="knn",
    settings=(whole("imputation_neighbors", 5, least=1),),
    fit=_fit,
    check=_check,
    tabular="it compares rows of features, and the pixels or steps of two examples do not match up",
)
