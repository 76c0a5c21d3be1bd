"""Features bent towards a normal distribution: Yeo-Johnson, then mean 0 and deviation 1.

I.-K. Yeo and R. A. Johnson, "A New Family of Power Transformations to Improve Normality or
Symmetry", Biometrika 87(4), 2000, equation 2.1: y(x) = ((1 + x)^l - 1) / l for x >= 0, and
-((1 - x)^(2 - l) - 1) / (2 - l) below, logarithms where an exponent is 0; l by maximum likelihood.

The standardisation is part of the technique (scikit-learn's default): for l < 0 all y crowd below
-1 / l, closer than float32 can tell apart. Here the difference to the mean y(c) is computed instead
of the two: with r a point on x's own side, c itself or 0,

    y(x) - y(r) = (1 + r)^l e(l L) L,  L = log((1 + x) / (1 + r)),  e(z) = (exp(z) - 1) / z

for x >= 0, and likewise below; no digits cancel, and no exponent is a special case. Where l is
large (|l| > 10, of features that are far from 0 and close together), the float64 of scikit-learn's
own transform and mean cancels too, and the two agree to what is left of it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from paretax.spaces.preprocessing.arithmetic import Pair, minus, pair, parts, rounded
from paretax.spaces.preprocessing.technique import Arrays, Fitted, Technique, Values


def _transform(arrays: Arrays, table: Pair, inputs: jax.Array) -> Pair:
    """Arrays: rows are the side x >= 0 and the side x < 0, columns the features."""
    x = table.high
    side = jnp.where(x < 0, 1, 0)

    def of_side(name: str) -> jax.Array:
        above, below = arrays[name]
        return jnp.where(side == 0, above, below)

    sign = jnp.where(side == 0, 1.0, -1.0)
    difference = sign * rounded(minus(table, Pair(of_side("origin"), of_side("origin_low"))))
    ratio = difference * of_side("inverse")  # (1 + |x|) / (1 + |r|) - 1
    far = (1.0 + jnp.abs(x)) * of_side("inverse")
    exponent = of_side("exponent")
    length = jnp.where(ratio < -0.5, jnp.log(far), jnp.log1p(ratio))
    z = exponent * length
    small = jnp.abs(z) < 1e-30
    grown = jnp.where(small, 1.0, jnp.expm1(z) / jnp.where(small, 1.0, z))
    return pair(of_side("slope") * (grown * length) + of_side("offset"))


def _bent(x: float, exponent: float) -> float:
    """The transform of x (equation 2.1)."""
    power = exponent if x >= 0 else 2 - exponent
    length = np.log1p(abs(x))
    return float(np.copysign(length if power == 0 else np.expm1(power * length) / power, x))


def _unbent(y: float, exponent: float) -> float:
    """The x of which the transform is y; NaN where none is."""
    power = exponent if y >= 0 else 2 - exponent
    with np.errstate(all="ignore"):
        length = abs(y) if power == 0 else np.log1p(power * abs(y)) / power
        return float(np.copysign(np.expm1(length), y))


def _fit(values: Values, table: np.ndarray, targets: np.ndarray) -> Fitted:
    from sklearn.preprocessing import PowerTransformer

    transformer = PowerTransformer(method="yeo-johnson", standardize=True).fit(table)
    means, scales = transformer._scaler.mean_, transformer._scaler.scale_
    arrays = {
        name: np.zeros((2, table.shape[1]))
        for name in ("origin", "inverse", "exponent", "slope", "offset")
    }
    for i, exponent in enumerate(transformer.lambdas_):
        low, high = table[:, i].min(), table[:, i].max()
        center = np.clip(np.nan_to_num(_unbent(means[i], exponent)), low, high)
        for side, (origin, power) in enumerate(
            ((max(center, 0.0), exponent), (min(center, 0.0), 2 - exponent))
        ):
            slope = np.exp(power * np.log1p(abs(origin))) / scales[i]
            arrays["origin"][side, i] = origin
            arrays["inverse"][side, i] = 1 / (1 + abs(origin))
            arrays["exponent"][side, i] = power
            arrays["slope"][side, i] = slope if side == 0 else -slope
            arrays["offset"][side, i] = (_bent(origin, exponent) - means[i]) / scales[i]
    origin, origin_low = parts(arrays.pop("origin"))
    return Fitted(
        arrays={
            "origin": origin,
            "origin_low": origin_low,
            **{name: a.astype(np.float32) for name, a in arrays.items()},
        },
        apply=_transform,
        reference=lambda table, inputs: np.asarray(transformer.transform(table)),
        words="transform: Yeo-Johnson power, then mean 0 and deviation 1",
    )


POWER = Technique(place="transformation", name="power", fit=_fit)
