"""The k features that an F-test finds most related to the targets.

For whole-number targets of one dimension the F value of an analysis of variance between the
classes, otherwise that of a linear regression on the feature alone (scikit-learn's `f_classif` and
`f_regression`). A constant feature comes last.
"""

from __future__ import annotations

import jax
import numpy as np

from paretax.errors import UsageError
from paretax.spaces.dimensions import whole
from paretax.spaces.preprocessing.arithmetic import Pair
from paretax.spaces.preprocessing.technique import Arrays, Fitted, Sizes, Technique, Values


def _take(arrays: Arrays, table: Pair, inputs: jax.Array) -> Pair:
    return Pair(*(a[:, arrays["columns"]] for a in table))


def _fit(values: Values, table: np.ndarray, targets: np.ndarray) -> Fitted:
    count = int(values["feature_selection"])
    classes = targets.ndim == 1 and targets.dtype.kind in "iub"
    from sklearn.feature_selection import SelectKBest, f_classif, f_regression

    score = f_classif if classes else f_regression
    selector = SelectKBest(score, k=count).fit(table, targets.reshape(len(targets)))
    return Fitted(
        arrays={"columns": selector.get_support(indices=True).astype(np.int32)},
        apply=_take,
        reference=lambda table, inputs: np.asarray(selector.transform(table)),
        words=f"select features: {count} of {table.shape[1]} by {score.__name__}",
    )


def _check(values: Values, sizes: Sizes, targets: np.ndarray) -> None:
    count = int(values["feature_selection"])
    if count > sizes.features:
        raise UsageError(
            f"feature_selection must be at most the number of features, {sizes.features}, got "
            f"{count}: lower it"
        )
    if targets.size != len(targets):
        raise UsageError(
            "feature_selection needs one target an example, got targets of shape "
            f"{targets.shape[1:]}: leave it at 0"
        )


SELECTION = Technique(
    place="feature_selection",
    settings=(whole("feature_selection", 0, least=0),),
    fit=_fit,
    features=lambda values, features: int(values["feature_selection"]),
    check=_check,
    tabular="it drops features, which images and series do not have",
)
