"""A layer in each of the ways in which users write it, with its naive form in float64.

A block is written for some of the systems `nnx`, `linen` and `pair`. Shapes are of one example:
(features,), (time, features) or (height, width, channels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen
import flax.nnx
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


Run = Callable[[Any, Any], Any]
"""(layer, x) -> x"""


class _InNnx(flax.nnx.Module):
    def __init__(self, name: str, layer: Any, run: Run) -> None:
        self.name, self.run = name, run
        setattr(self, name, layer)

    def __call__(self, x: jax.Array) -> Any:
        return self.run(getattr(self, self.name), x)


class _InLinen(flax.linen.Module):
    make: Callable[[], Any]
    run: Run

    @flax.linen.compact
    def __call__(self, x: jax.Array) -> Any:
        return self.run(self.make(), x)


def in_nnx(name: str, make: Callable[..., Any] | None, run: Run) -> Callable[..., Any]:
    """(rngs, dtypes) -> a module that runs one layer in its own way.

    Args:
        name: of the layer in the module.
        make: (rngs, dtypes) -> the layer.
        run: what the module does with it.
    """
    assert make is not None
    return lambda rngs, **types: _InNnx(name, make(rngs, **types), run)


def in_linen(name: str, make: Callable[..., Any] | None, run: Run) -> Callable[..., Any]:
    """(name, dtypes) -> such a module of linen; `make`: (name, dtypes) -> the layer."""
    assert make is not None
    return lambda own, **types: _InLinen(make=partial(make, name, **types), run=run, name=own)
