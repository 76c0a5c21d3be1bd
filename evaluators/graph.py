"""A traced program in words, which are found faster than its StableHLO."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

_ADDRESS = re.compile(r"0x[0-9a-f]+")
_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl")
"""Of JAX, by which equal graphs may be lowered to different programs."""


def graph_key(closed: ClosedJaxpr) -> str:
    """SHA-256 of a graph: its text, the arrays that it holds, JAX's version and settings.

    Equal keys are lowered to equal programs; the reverse need not hold.
    """
    settings = {name: getattr(jax.config, name) for name in _SETTINGS}
    about = (graph_text(closed), held_arrays(closed), f"{jax.__version__} {settings}")
    return hashlib.sha256("\n".join(about).encode()).hexdigest()[:24]


def graph_text(closed: ClosedJaxpr) -> str:
    """A graph as JAX prints it, without the addresses of functions."""
    return _ADDRESS.sub("", str(closed.jaxpr))


def held_arrays(closed: ClosedJaxpr) -> str:
    """SHA-256 of the arrays that a graph, and each within it, holds; its text lacks the values."""
    held = hashlib.sha256()
    for constant in _constants(closed):
        held.update(f"{constant.dtype} {constant.shape}".encode())
        held.update(constant.tobytes())
    return held.hexdigest()


def _constants(closed: ClosedJaxpr) -> Iterator[np.ndarray]:
    for constant in closed.consts:
        if isinstance(constant, jax.Array) and jnp.issubdtype(constant.dtype, jax.dtypes.prng_key):
            yield np.asarray(jax.random.key_data(constant))
        else:
            yield np.asarray(constant)
    yield from _within(closed.jaxpr)


def _within(jaxpr: Jaxpr) -> Iterator[np.ndarray]:
    for eqn in jaxpr.eqns:
        for value in eqn.params.values():
            parts: tuple[Any, ...] = tuple(value) if isinstance(value, tuple | list) else (value,)
            for part in parts:
                if isinstance(part, ClosedJaxpr):
                    yield from _constants(part)
                elif isinstance(part, Jaxpr):
                    yield from _within(part)
