"""A user's own models, one by flax.nnx alone and one by flax.linen alone, on images of digits.

Both have convolutions with batch norm and a residual around them, then attention over the pixels
with a residual around it.
"""

import flax.linen as nn
import numpy as np
from flax import nnx
from sklearn.datasets import load_digits

import paretax


class NnxNet(nnx.Module):
    """In flax.nnx."""

    def __init__(self, width, heads, rngs):
        self.stem = nnx.Conv(1, width, (3, 3), rngs=rngs)
        self.stem_norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.conv1 = nnx.Conv(width, width, (3, 3), rngs=rngs)
        self.norm1 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(width, width, (3, 3), rngs=rngs)
        self.norm2 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.out = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x):
        """Images (batch, 8, 8, 1) to logits (batch, 10)."""
        x = nnx.relu(self.stem_norm(self.stem(x)))
        y = nnx.relu(self.norm1(self.conv1(x)))
        x = nnx.relu(x + self.norm2(self.conv2(y)))
        x = nnx.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], 16, -1)
        x = x + self.attention(x)
        return self.out(x.mean(axis=1))


class LinenNet(nn.Module):
    """In flax.linen."""

    width: int
    heads: int

    @nn.compact
    def __call__(self, x, train: bool):
        """Images (batch, 8, 8, 1) to logits (batch, 10)."""

        def norm(x):
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        x = nn.relu(norm(nn.Conv(self.width, (3, 3))(x)))
        y = nn.relu(norm(nn.Conv(self.width, (3, 3))(x)))
        x = nn.relu(x + norm(nn.Conv(self.width, (3, 3))(y)))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(x.shape[0], 16, -1)
        x = x + nn.MultiHeadDotProductAttention(self.heads)(x)
        return nn.Dense(10)(x.mean(axis=1))


def load():
    """The data, split once and for all."""
    inputs, labels = load_digits(return_X_y=True)
    images = (inputs / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    return paretax.split(images, labels, seed=0)


def build_nnx(config, rngs):
    """The nnx model of a candidate."""
    return NnxNet(config["width"], config["heads"], rngs)


def build_linen(config):
    """The linen model of a candidate."""
    return LinenNet(config["width"], config["heads"])


defaults = {"width": 16, "heads": 4}
nnx_task = paretax.classification("nnx-digits", load=load, build=build_nnx, defaults=defaults)
linen_task = paretax.classification("linen-digits", load=load, build=build_linen, defaults=defaults)
