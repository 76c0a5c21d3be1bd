"""The features and all their products of up to 2 or 3 factors, squares and cubes included."""

from __future__ import annotations

from math import comb

import jax
import jax.numpy as jnp
import numpy as np

from paretax.errors import UsageError
from paretax.spaces.dimensions import Setting, is_whole
from paretax.spaces.preprocessing.arithmetic import Pair, pair, times
from paretax.spaces.preprocessing.technique import Arrays, Fitted, Sizes, Technique, Values

_MOST = 10_000
"""Columns after which a table of products is refused."""


def _multiply(arrays: Arrays, table: Pair, inputs: jax.Array) -> Pair:
    """A column for each row of `factors`; the index after the last feature means 1."""
    padded = pair(jnp.pad(table.high, ((0, 0), (0, 1)), constant_values=1.0))
    first, *others = (Pair(*(a[:, index] for a in padded)) for index in arrays["factors"].T)
    for factor in others:
        first = times(first, factor)
    return first


def _terms(values: Values, features: int) -> int:
    degree = int(values["polynomial_degree"])
    return comb(features + degree, degree) - 1


def _fit(values: Values, table: np.ndarray, targets: np.ndarray) -> Fitted:
    degree = int(values["polynomial_degree"])
    from sklearn.preprocessing import PolynomialFeatures

    transformer = PolynomialFeatures(degree=degree, include_bias=False).fit(table)
    features = table.shape[1]
    factors = np.full((len(transformer.powers_), degree), features, np.int32)
    for row, powers in zip(factors, transformer.powers_, strict=True):
        indices = np.repeat(np.arange(features), powers)
        row[: len(indices)] = indices
    return Fitted(
        arrays={"factors": factors},
        apply=_multiply,
        reference=lambda table, inputs: np.asarray(transformer.transform(table)),
        words=f"transform: {len(factors)} products of up to {degree} of the {features} features",
    )


def _check(values: Values, sizes: Sizes, targets: np.ndarray) -> None:
    terms = _terms(values, sizes.features)
    if terms > _MOST:
        raise UsageError(
            f"polynomial features must be at most {_MOST}, got {terms} of degree "
            f"{values['polynomial_degree']} from {sizes.features} features: lower "
            "polynomial_degree, or leave transformation: polynomial out"
        )


POLYNOMIAL = Technique(
    place="transformation",
    name="polynomial",
    settings=(
        Setting(
            name="polynomial_degree",
            default=2,
            rule="2 or 3",
            allows=lambda v: is_whole(v) and int(v) in (2, 3),
        ),
    ),
    fit=_fit,
    features=_terms,
    check=_check,
    tabular="it multiplies features with each other, which images and series do not have",
)
