"""A user's own task: which of three wines, from 13 chemical measurements, by flax.linen."""

import flax.linen as nn
import numpy as np
from sklearn.datasets import load_wine

import paretax


class Net(nn.Module):
    """Inputs normalised by a batch norm, then hidden layers with dropout."""

    width: int
    depth: int
    dropout: float

    @nn.compact
    def __call__(self, x, train: bool):
        """Measurements (batch, 13) to logits (batch, 3)."""
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        for _ in range(self.depth):
            x = nn.relu(nn.Dense(self.width)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(3)(x)


def load():
    """The data, split once and for all."""
    inputs, labels = load_wine(return_X_y=True)
    return paretax.split(inputs.astype(np.float32), labels, seed=0)


def build(config):
    """The model of a candidate."""
    return Net(width=config["width"], depth=config["depth"], dropout=config["dropout"])


task = paretax.classification(
    "wine", load=load, build=build, defaults={"width": 16, "depth": 1, "dropout": 0.1}
)
