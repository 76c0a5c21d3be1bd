"""Small models' parameters as one vector: the optimiser's update is then one operation, not many.

For an MLP of three layers, a training program is traced and lowered in 0.07 s instead of 0.17 s.
Large models train for much longer than they are traced, and stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from paretax.tasks import Arrays

_MOST = 1 << 20  # elements of a model that is packed

Vectors = dict[str, jax.Array]
"""By type ("float32"), the elements of all arrays of that type, in the order of their names; of a
large model, the arrays themselves, by name."""


@dataclass(frozen=True)
class Packing:
    """How a model's arrays lie in vectors.

    Args:
        shapes: of the arrays, with their types, by name.
    """

    shapes: Mapping[str, Any]

    def pack(self, arrays: Mapping[str, Any]) -> Vectors:
        """The arrays one after another.

        Args:
            arrays: of these shapes, or of ones that broadcast to them; of any types.
        """
        full = {
            name: jnp.broadcast_to(arrays[name], shape.shape) for name, shape in self.shapes.items()
        }
        if not self._packs:
            return full
        return {
            dtype: jnp.concatenate([full[name].reshape(-1) for name in names])
            for dtype, names in self._names().items()
        }

    def unpack(self, vectors: Vectors) -> Arrays:
        """The arrays again."""
        if not self._packs:
            return vectors
        arrays: Arrays = {}
        for dtype, names in self._names().items():
            place = 0
            for name in names:
                shape = tuple(self.shapes[name].shape)
                size = math.prod(shape)
                part = jax.lax.slice(vectors[dtype], (place,), (place + size,))
                arrays[name] = jax.lax.reshape(part, shape)
                place += size
        return arrays

    @property
    def _packs(self) -> bool:
        elements: int = sum(math.prod(shape.shape) for shape in self.shapes.values())
        return elements <= _MOST

    def _names(self) -> dict[str, list[str]]:
        by_type: dict[str, list[str]] = {}
        for name in sorted(self.shapes):
            by_type.setdefault(str(self.shapes[name].dtype), []).append(name)
        return by_type
