"""Layers without weights that are multiplied."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tests.agreement.made import Made, Shape
from tests.agreement.reference import Array, Reference, gelu


def batch_norm(shape: Shape) -> Made:
    """A batch norm."""

    def naive(ref: Reference, prefix: str, x: Array) -> Array:
        owner = prefix if f"{prefix}/mean" in ref.weights else f"batch_stats/{prefix}"
        mean, var = ref.array(f"{owner}/mean"), ref.array(f"{owner}/var")
        y = (x - mean) / np.sqrt(var + 1e-5) * ref.array(f"{prefix}/scale")
        return ref.cast(y + ref.array(f"{prefix}/bias"))

    return Made(
        kind="batch norm",
        out=shape,
        weights=(),
        naive=naive,
        nnx=lambda rngs, **types: nnx.BatchNorm(shape[-1], rngs=rngs, **types),
        linen=lambda name, **types: linen.BatchNorm(use_running_average=None, name=name, **types),
    )


def layer_norm(shape: Shape) -> Made:
    """A layer norm."""

    def naive(ref: Reference, prefix: str, x: Array) -> Array:
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return ref.cast(y * ref.array(f"{prefix}/scale") + ref.array(f"{prefix}/bias"))

    return Made(
        kind="layer norm",
        out=shape,
        weights=(),
        naive=naive,
        nnx=lambda rngs, **types: nnx.LayerNorm(shape[-1], rngs=rngs, **types),
        linen=lambda name, **types: linen.LayerNorm(name=name, **types),
    )


def _straight(step: float) -> Callable[[jax.Array], jax.Array]:
    @jax.custom_vjp
    def run(x: jax.Array) -> jax.Array:
        return jnp.round(x / step) * step

    run.defvjp(lambda x: (run(x), None), lambda _, g: (g,))
    return run


def _bounded() -> Callable[[jax.Array], jax.Array]:
    @jax.custom_jvp
    def run(x: jax.Array) -> jax.Array:
        return jnp.clip(x, -1.0, 1.0)

    run.defjvp(lambda given, changes: (run(*given), changes[0] * 0.5))
    return run


_ACTIVATIONS: Mapping[str, tuple[Callable[[jax.Array], jax.Array], Callable[[Array], Array]]] = {
    "relu": (jax.nn.relu, lambda x: np.maximum(x, 0)),
    "tanh": (jnp.tanh, np.tanh),
    "gelu": (jax.nn.gelu, gelu),
    "bounded": (_bounded(), lambda x: np.clip(x, -1, 1)),
    "straight through": (_straight(0.25), lambda x: np.round(x / 0.25) * 0.25),
}
ROUNDING = "straight through"
"""The one that rounds."""
ACTIVATIONS = tuple(_ACTIVATIONS)


def free(kind: str, out: Shape, run: Any, naive: Callable[[Array], Array]) -> Made:
    """A function without parameters, in every system."""
    return Made(
        kind=kind,
        out=out,
        weights=(),
        naive=lambda ref, prefix, x: ref.cast(naive(x)),
        nnx=lambda rngs, **types: run,
        linen=lambda name, **types: run,
        init=lambda key: {},
        apply=lambda p, x: run(x),
    )


def activation(shape: Shape, name: str) -> Made:
    """A function of each value, some with a derivative of the user's own."""
    run, naive = _ACTIVATIONS[name]
    return free(name, shape, run, naive)


def flat(shape: Shape) -> Made:
    """All values of an example in one row."""
    return free(
        "flatten",
        (math.prod(shape),),
        lambda x: x.reshape(x.shape[0], -1),
        lambda x: x.reshape(len(x), -1),
    )


def mean(shape: Shape) -> Made:
    """The mean over places or time."""
    axes = tuple(range(1, len(shape)))
    return free("mean", shape[-1:], lambda x: x.mean(axes), lambda x: x.mean(axes))


def pooled(shape: Shape) -> Made:
    """The largest of 2 x 2 neighbours."""

    def naive(x: Array) -> Array:
        rows, columns = x.shape[1] // 2, x.shape[2] // 2
        x = x[:, : 2 * rows, : 2 * columns]
        return x.reshape(len(x), rows, 2, columns, 2, x.shape[-1]).max(axis=(2, 4))

    out = (shape[0] // 2, shape[1] // 2, shape[2])
    return free("largest of 2 x 2", out, lambda x: nnx.max_pool(x, (2, 2), (2, 2)), naive)
