"""Malignant or benign, from 30 measured features, 569 examples (scikit-learn's copy).

W. Wolberg, O. Mangasarian, N. Street and W. Street, "Breast Cancer Wisconsin (Diagnostic)", UCI
Machine Learning Repository, 1993, doi:10.24432/C5DW2B.
"""

from __future__ import annotations

import jax
import numpy as np
from flax import nnx

from paretax.tasks.classification import classification
from paretax.tasks.digits import MLP
from paretax.tasks.splitting import split
from paretax.tasks.task import Config, Data, Split


def _load() -> Data:
    from sklearn.datasets import load_breast_cancer

    inputs, labels = load_breast_cancer(return_X_y=True)
    data = split(inputs, labels.astype(np.int32))
    mean, deviation = data.train.inputs.mean(axis=0), data.train.inputs.std(axis=0)

    def standard(part: Split) -> Split:
        return Split(((part.inputs - mean) / deviation).astype(np.float32), part.targets)

    return Data(
        train=standard(data.train), validation=standard(data.validation), test=standard(data.test)
    )


def _build(config: Config, rngs: nnx.Rngs, inputs: jax.ShapeDtypeStruct) -> MLP:
    return MLP(inputs.shape[-1], config["width"], config["depth"], 2, rngs=rngs)


task = classification("breast_cancer", load=_load, build=_build, defaults={"width": 16, "depth": 1})
