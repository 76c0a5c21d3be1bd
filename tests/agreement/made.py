"""A layer in each of the ways in which users write it, with its naive form in float64.

A block is written for some of the systems `nnx`, `linen` and `pair`. Shapes are of one example:
(features,), (time, features) or (height, width, channels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from tests.agreement.reference import Array, Reference

Shape = tuple[int, ...]
Params = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Made:
    """A block of a model, at its place.

    Args:
        kind: in words.
        out: shape of one example after it.
        weights: suffixes of the parameters that techniques must reach.
        naive: (reference, prefix of its parameters, x) -> x.
        nnx: (rngs, dtypes) -> a module.
        linen: (name, dtypes) -> a module.
        init: key -> its parameters.
        apply: (parameters, x) -> x.
    """

    kind: str
    out: Shape
    weights: tuple[str, ...]
    naive: Callable[[Reference, str, Array], Array]
    nnx: Callable[..., Any] | None = None
    linen: Callable[..., Any] | None = None
    init: Callable[[jax.Array], Params] | None = None
    apply: Callable[[Params, jax.Array], jax.Array] | None = None

    @property
    def systems(self) -> set[str]:
        """In which it is written."""
        ways = {"nnx": self.nnx, "linen": self.linen, "pair": self.apply}
        return {name for name, way in ways.items() if way is not None}


def normal(key: jax.Array, shape: Shape, fan: int) -> jax.Array:
    """Initial weights of a product that sums over `fan` inputs."""
    return jax.random.normal(key, shape) / math.sqrt(fan)


def biased(ref: Reference, prefix: str, y: Array) -> Array:
    """A product with its bias."""
    return ref.cast(y + ref.cast(ref.array(f"{prefix}/bias")))
