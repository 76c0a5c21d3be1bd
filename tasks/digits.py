"""Handwritten digits, 8 x 8 pixels, 1,797 examples (scikit-learn's copy of the UCI data set).

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998, doi:10.24432/C50P49.
"""

from __future__ import annotations

from itertools import pairwise

import jax
import numpy as np
from flax import nnx

from paretax.tasks.classification import classification
from paretax.tasks.splitting import split
from paretax.tasks.task import Config, Data


class MLP(nnx.Module):
    """`depth` hidden layers of `width` units with ReLU, then a linear layer.

    Args:
        inputs: features of an example.
        width: units of a hidden layer.
        depth: hidden layers.
        outputs: logits.
        rngs: for the initial weights.
    """

    def __init__(
        self, inputs: int, width: int, depth: int, outputs: int, *, rngs: nnx.Rngs
    ) -> None:
        sizes = [inputs, *[width] * depth]
        self.hidden = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairwise(sizes)])
        self.out = nnx.Linear(sizes[-1], outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Inputs (batch, inputs) to logits (batch, outputs)."""
        for layer in self.hidden:
            x = nnx.relu(layer(x))
        return self.out(x)


def _load() -> Data:
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    return split((inputs / 16.0).astype(np.float32), labels.astype(np.int32), validation=0.15)


def _build(config: Config, rngs: nnx.Rngs, inputs: jax.ShapeDtypeStruct) -> MLP:
    return MLP(inputs.shape[-1], config["width"], config["depth"], 10, rngs=rngs)


task = classification("digits", load=_load, build=_build, defaults={"width": 64, "depth": 2})
