"""Principal components: the directions in which the training rows vary most.

K. Pearson, "On Lines and Planes of Closest Fit to Systems of Points in Space", Philosophical
Magazine 2(11), 1901; y = (x - mean) W with W the leading right singular vectors of the centred
table.

Where the features are in large units, the terms of a small component cancel, and float32 would
leave little of it. Then both factors are cut into slices of so few bits that float32 sums their
products without an error: x - mean = D_1 + ... + D_L + rest with D_i whole multiples of a power of
two (one for each feature), W = V_1 + ... + V_L + rest likewise (one for each component). Only the
products with a rest are rounded, and each further slice makes these smaller by its bits. (K. Ozaki
et al., "Error-free transformations of matrix multiplication by using fast routines of matrix
multiplication and its applications", Numerical Algorithms 59, 2012,
doi:10.1007/s11075-011-9478-1.) The training rows say how many slices it takes; for features of
like scales, such as normalised ones, none, and the projection is a plain product.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from paretax.errors import UsageError
from paretax.spaces.dimensions import Setting, is_number, is_whole
from paretax.spaces.parameters import Value
from paretax.spaces.preprocessing.arithmetic import (
    Pair,
    minus,
    pair,
    parts,
    plus,
    rounded,
    total,
)
from paretax.spaces.preprocessing.technique import Arrays, Fitted, Sizes, Technique, Values

_TOLERANCE = 4e-6
"""The last digit of the largest sum of magnitudes that is left to rounding."""

_MOST_SLICES = 4


def _bits(features: int) -> int:
    """Bits of a slice: a sum of `features` products of two slices must fit the 24 of float32."""
    return max(1, (24 - (features - 1).bit_length()) // 2)


def _project(arrays: Arrays, table: Pair, inputs: jax.Array) -> Pair:
    tail = arrays["tail"]  # (features, components)
    slices = list(arrays["slices"]) if "slices" in arrays else []  # the same, each
    count, bits = len(slices), _bits(tail.shape[0])
    centred = minus(table, Pair(arrays["center"], arrays["center_low"]))
    rest = Pair(*(a * arrays["inverse_unit"] for a in centred))
    left = [tail]  # what is left of W after all its slices, after all but the last, ...
    for piece in slices[::-1]:
        left.append(left[-1] + piece)
    sum_, rows, columns = None, [], []
    for i in range(count):
        grid = 2.0 ** (bits * i)
        whole = jnp.round(rest.high * grid) / grid
        rest = total(rest.high - whole, rest.low)
        for piece in slices[: count - i]:
            exact = jnp.matmul(whole, piece, precision=jax.lax.Precision.HIGHEST)
            sum_ = pair(exact) if sum_ is None else plus(sum_, pair(exact))
        rows.append(whole)
        columns.append(left[i])
    small = jnp.matmul(
        jnp.concatenate([*rows, rounded(rest)], axis=1),
        jnp.concatenate([*columns, left[-1]]),
        precision=jax.lax.Precision.HIGHEST,
    )
    return pair(small) if sum_ is None else plus(sum_, pair(small))


def _power_of_two(largest: np.ndarray) -> np.ndarray:
    """The power of two next above each magnitude; 1 where it is 0."""
    return np.where(largest > 0, np.exp2(np.frexp(largest)[1]), 1.0)


def _slices_needed(centred: np.ndarray, weights: np.ndarray) -> int:
    """How many slices bring the rounding of float32 below the tolerance on the training rows."""
    digit = np.max(np.abs(centred) @ np.abs(weights), initial=0) * 2.0**-24
    return sum(digit > _TOLERANCE * 2.0 ** (_bits(len(weights)) * i) for i in range(_MOST_SLICES))


def _fit(values: Values, table: np.ndarray, targets: np.ndarray) -> Fitted:
    asked = values["pca"]
    from sklearn import decomposition

    fitted = decomposition.PCA(n_components=asked, svd_solver="full").fit(table)
    centred = table - fitted.mean_
    weights = fitted.components_.T
    features, components = weights.shape
    count, bits = _slices_needed(centred, weights), _bits(features)
    unit = _power_of_two(np.abs(centred).max(axis=0)) * 2.0**-bits
    tail = weights * unit[:, None]
    step = _power_of_two(np.abs(tail).max(axis=0)) * 2.0**-bits
    slices = np.zeros((count, features, components))
    for i in range(count):
        slices[i] = np.round(tail / step) * step
        tail, step = tail - slices[i], step * 2.0**-bits
    center, center_low = parts(fitted.mean_)
    share = fitted.explained_variance_ratio_.sum()
    return Fitted(
        arrays={
            "center": center,
            "center_low": center_low,
            "inverse_unit": (1 / unit).astype(np.float32),
            "tail": tail.astype(np.float32),
            **({"slices": slices.astype(np.float32)} if count else {}),
        },
        apply=_project,
        reference=lambda table, inputs: np.asarray(fitted.transform(table)),
        words=f"pca: {components} components of {features} features, {share:.3g} of the variance",
    )


def _check(values: Values, sizes: Sizes, targets: np.ndarray) -> None:
    asked = values["pca"]
    most = min(sizes.features, sizes.examples)
    if is_whole(asked) and asked > most:
        raise UsageError(
            f"pca must be at most the number of features, {sizes.features}, and of training "
            f"examples, {sizes.examples}, got {asked}: lower it, or give a share of the variance"
        )


def _allows(value: Value) -> bool:
    if not is_number(value):
        return False
    number = float(value)
    return 0 <= number < 1 or (is_whole(value) and number >= 1)


PCA = Technique(
    place="pca",
    settings=(
        Setting(
            name="pca",
            default=0,
            rule="0 for none, a number of components, or a share of the variance below 1",
            allows=_allows,
        ),
    ),
    fit=_fit,
    features=lambda values, features: int(values["pca"]) if is_whole(values["pca"]) else features,
    check=_check,
    tabular="it mixes features, which images and series do not have",
)
