"""Features shifted and scaled: (x - center) / scale.

`standard`: mean and deviation. `minmax`: minimum and range. `robust`: median and interquartile
range. A constant feature keeps the scale 1, so it becomes 0 wherever it has its training value.
"""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from paretax.spaces.preprocessing.arithmetic import Pair, minus, pair, parts, rounded
from paretax.spaces.preprocessing.technique import Arrays, Fitted, Technique, Values

_KINDS = {  # the scaler, its centre and its scale, and what it does in words
    "standard": ("StandardScaler", "mean_", "scale_", "mean 0 and deviation 1"),
    "minmax": ("MinMaxScaler", "data_min_", "scale_", "from 0 to 1"),
    "robust": ("RobustScaler", "center_", "scale_", "median 0 and interquartile range 1"),
}


def _scale(arrays: Arrays, table: Pair, inputs: jax.Array) -> Pair:
    center = Pair(arrays["center"], arrays["center_low"])
    return pair(rounded(minus(table, center)) / arrays["scale"])


def _fit(kind: str, values: Values, table: np.ndarray, targets: np.ndarray) -> Fitted:
    from sklearn import preprocessing

    name, center, scale, words = _KINDS[kind]
    scaler = getattr(preprocessing, name)().fit(table)
    factor = getattr(scaler, scale)
    center_high, center_low = parts(getattr(scaler, center))
    return Fitted(
        arrays={
            "center": center_high,
            "center_low": center_low,
            "scale": (1 / factor if kind == "minmax" else factor).astype(np.float32),
        },
        apply=_scale,
        reference=lambda table, inputs: np.asarray(scaler.transform(table)),
        words=f"normalise: {kind}, {words}",
    )


def _technique(kind: str) -> Technique:
    return Technique(place="normalization", name=kind, fit=partial(_fit, kind))


STANDARD = _technique("standard")
MINMAX = _technique("minmax")
ROBUST = _technique("robust")
