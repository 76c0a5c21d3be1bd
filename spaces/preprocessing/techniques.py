"""The one list of techniques, in the order in which a pipeline applies their places."""

from __future__ import annotations

from paretax.spaces.dimensions import Setting, choice
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


def _settings() -> tuple[Setting, ...]:
    places = dict.fromkeys(t.place for t in TECHNIQUES if t.name)
    named = {place: [t.name for t in TECHNIQUES if t.place == place] for place in places}
    choices = (choice(place, "none", *names) for place, names in named.items())
    return (*choices, *(s for t in TECHNIQUES for s in t.settings))


SETTINGS = _settings()
"""The parameters of the dimension: the choice at each place, then what the techniques read."""
