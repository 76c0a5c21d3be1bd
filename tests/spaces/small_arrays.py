"""Small arrays, and the channels of functions of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paretax.spaces.channels import Channels, find_channels


def normal(seed: int, shape: tuple[int, ...]) -> jax.Array:
    """Random numbers of a shape."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


B, T, I, C, O = 3, 2, 5, 6, 4  # noqa: E741
PARAMS = {
    "u": normal(0, (I, C)),
    "v": normal(1, (C, C)),
    "w": normal(2, (C, O)),
    "b": normal(3, (C,)),
}
X = normal(4, (B, T, I))
Function = Callable[[Any, Any], Any]


def find(function: Function, params: Mapping[str, Any] = PARAMS, x: Any = X) -> Channels:
    """The channels of a function of parameters and inputs."""
    return find_channels(lambda p, s, x: function(p, x), params, {}, x)
