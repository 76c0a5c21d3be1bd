"""The one list of techniques, in the order in which a pipeline applies their places."""

from __future__ import annotations

from paretax.spaces.dimensions import Setting
from paretax.spaces.preprocessing import (
    imputation,
    neighbours,
    normalization,
    outliers,
    pca,
    polynomial,
    power,
    quantile,
    selection,
)
from paretax.spaces.preprocessing.technique import Technique

TECHNIQUES: tuple[Technique, ...] = (
    imputation.MEAN,
    imputation.MEDIAN,
    imputation.MOST_FREQUENT,
    neighbours.NEIGHBOURS,
    outliers.IQR,
    outliers.WINSORIZE,
    power.POWER,
    quantile.QUANTILE,
    polynomial.POLYNOMIAL,
    normalization.STANDARD,
    normalization.MINMAX,
    normalization.ROBUST,
    selection.SELECTION,
    pca.PCA,
    imputation.INDICATOR,
)
"""To add a technique is to add it here, among those of its place."""


def _choice(place: str) -> Setting:
    names = ("none", *(t.name for t in TECHNIQUES if t.place == place))
    return Setting(
        name=place,
        default="none",
        rule=f"one of {', '.join(names)}",
        allows=lambda v: v in names,
    )


def _settings() -> tuple[Setting, ...]:
    named = dict.fromkeys(t.place for t in TECHNIQUES if t.name)
    return (*map(_choice, named), *(s for t in TECHNIQUES for s in t.settings))


SETTINGS = _settings()
"""The parameters of the dimension: the choice at each place, then what the techniques read."""
