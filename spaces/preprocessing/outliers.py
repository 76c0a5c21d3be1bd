"""Values beyond a low and a high cap of their feature become the cap.

`iqr`: the caps are q1 - 1.5 (q3 - q1) and q3 + 1.5 (q3 - q1), with q1 and q3 the quartiles (J. W.
Tukey, "Exploratory Data Analysis", 1977). Where most of a feature's values are equal, so are its
quartiles, and the feature becomes constant. `winsorize`: the caps are the quantiles t and 1 - t (C.
Hastings et al., "Low Moments for Small Samples", Ann. Math. Stat. 18(3), 1947).

scikit-learn has no such transformer; feature-engine's Winsorizer computes these caps, but needs
pandas tables and statsmodels for two calls of numpy's quantile. Caps are rounded to float32.
"""

from __future__ import annotations

from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from paretax.spaces.dimensions import Setting, is_number
from paretax.spaces.preprocessing.arithmetic import Pair, pair
from paretax.spaces.preprocessing.technique import Arrays, Fitted, Technique, Values


class Caps:
    """Clips each feature to an interval learned from training data.

    Args:
        low: the quantile that the low cap starts from; the high cap starts from 1 - low.
        fold: how many distances between the two quantiles the caps lie outside them.
    """

    def __init__(self, low: float, fold: float) -> None:
        self.low = low
        self.fold = fold

    def fit(self, table: np.ndarray, targets: object = None) -> Self:
        """Learn the caps, `low_` and `high_`, from a table (rows, features)."""
        low, high = np.quantile(table, [self.low, 1 - self.low], axis=0)
        margin = self.fold * (high - low)
        self.low_ = (low - margin).astype(np.float32)
        self.high_ = (high + margin).astype(np.float32)
        return self

    def transform(self, table: np.ndarray) -> np.ndarray:
        """The table, clipped."""
        low, high = self.low_.astype(np.float64), self.high_.astype(np.float64)
        return np.asarray(np.clip(table, low, high))


def _clip(arrays: Arrays, table: Pair, inputs: jax.Array) -> Pair:
    return pair(jnp.clip(table.high, arrays["low"], arrays["high"]))


def _fitted(caps: Caps, table: np.ndarray, words: str) -> Fitted:
    caps.fit(table)
    return Fitted(
        arrays={"low": caps.low_, "high": caps.high_},
        apply=_clip,
        reference=lambda table, inputs: caps.transform(table),
        words=f"cap outliers: {words}",
    )


def _fit_iqr(values: Values, table: np.ndarray, targets: np.ndarray) -> Fitted:
    return _fitted(Caps(0.25, 1.5), table, "1.5 interquartile ranges beyond the quartiles")


def _fit_winsorize(values: Values, table: np.ndarray, targets: np.ndarray) -> Fitted:
    low = float(values["winsor_quantile"])
    return _fitted(Caps(low, 0.0), table, f"at the quantiles {low:g} and {1 - low:g}")


IQR = Technique(place="outliers", name="iqr", fit=_fit_iqr)
WINSORIZE = Technique(
    place="outliers",
    name="winsorize",
    settings=(
        Setting(
            name="winsor_quantile",
            default=0.05,
            rule="a share above 0 and below 0.5",
            number=True,
            allows=lambda v: is_number(v) and 0 < float(v) < 0.5,
        ),
    ),
    fit=_fit_winsorize,
)
