"""Missing values filled with one number a feature, and the columns that say where they were.

A filled value is rounded to float32, in the program and in the reference: later steps then meet
the numbers that a float32 table can hold, and equal ones stay equal.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from paretax.spaces.dimensions import switch
from paretax.spaces.preprocessing.arithmetic import Pair, pair
from paretax.spaces.preprocessing.technique import Arrays, Fitted, Technique, Values


def _fill(arrays: Arrays, table: Pair, inputs: jax.Array) -> Pair:
    return pair(jnp.where(jnp.isnan(table.high), arrays["fill"], table.high))


def _fit(strategy: str, values: Values, table: np.ndarray, targets: np.ndarray) -> Fitted:
    from sklearn.impute import SimpleImputer

    imputer = SimpleImputer(strategy=strategy).fit(table)

    def reference(table: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        return np.asarray(imputer.transform(table)).astype(np.float32).astype(np.float64)

    return Fitted(
        arrays={"fill": imputer.statistics_.astype(np.float32)},
        apply=_fill,
        reference=reference,
        words=f"impute missing values: {strategy.replace('_', ' ')}",
    )


def _technique(strategy: str) -> Technique:
    return Technique(place="imputation", name=strategy, fit=partial(_fit, strategy))


MEAN = _technique("mean")
MEDIAN = _technique("median")
MOST_FREQUENT = _technique("most_frequent")


def _append(arrays: Arrays, table: Pair, inputs: jax.Array) -> Pair:
    flags = jnp.isnan(inputs[:, arrays["columns"]]).astype(jnp.float32)
    return Pair(*(jnp.concatenate(two, axis=1) for two in zip(table, pair(flags), strict=True)))


def _keep(arrays: Arrays, table: Pair, inputs: jax.Array) -> Pair:
    return table


def _fit_indicator(values: Values, table: np.ndarray, targets: np.ndarray) -> Fitted:
    from sklearn.impute import MissingIndicator

    indicator = MissingIndicator(features="missing-only", error_on_new=False, sparse=False)
    columns = indicator.fit(table).features_
    if not len(columns):
        return Fitted(
            arrays={},
            apply=_keep,
            reference=lambda table, inputs: table,
            words="mark missing values: no column, as none was missing in training",
        )

    def reference(table: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        return np.hstack([table, indicator.transform(inputs)])

    return Fitted(
        arrays={"columns": columns.astype(np.int32)},
        apply=_append,
        reference=reference,
        words=f"mark missing values: {len(columns)} columns of 0 and 1, appended last",
    )


INDICATOR = Technique(
    place="missing_indicator",
    settings=(switch("missing_indicator"),),
    fit=_fit_indicator,
    needs="imputation",
    tabular="its columns stand beside features, which images and series do not have",
)
