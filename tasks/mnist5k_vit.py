"""The same images as `mnist5k`, read by a small vision transformer.

A. Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, arXiv:2010.11929: patches become
tokens; here with the mean of the tokens in the place of a class token.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from paretax.tasks.classification import classification
from paretax.tasks.mnist5k import task as images
from paretax.tasks.task import Config

_SIDE = 28


class Block(nnx.Module):
    """Self-attention and a two-layer MLP, each after a normalisation and beside a residual.

    Args:
        width: of a token.
        heads: of the attention; they divide the width.
        rngs: for the initial weights.
    """

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.norm1, self.norm2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.query, self.key, self.value, self.mix = (
            nnx.Linear(width, width, rngs=rngs) for _ in range(4)
        )
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens (batch, length, width) to tokens of the same shape."""
        batch, length, width = x.shape
        normed = self.norm1(x)
        shape = (batch, length, self.heads, width // self.heads)
        query, key, value = (
            layer(normed).reshape(shape) for layer in (self.query, self.key, self.value)
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * shape[-1] ** -0.5
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)
        x = x + self.mix(mixed.reshape(batch, length, width))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class Transformer(nnx.Module):
    """Patches to tokens, `depth` blocks, and a linear layer on the mean of the tokens.

    Args:
        width: of a token.
        heads: of each attention; they divide the width.
        depth: blocks.
        patch: side of a patch in pixels; it divides 28.
        rngs: for the initial weights.
    """

    def __init__(self, width: int, heads: int, depth: int, patch: int, *, rngs: nnx.Rngs) -> None:
        self.patch = patch
        count = (_SIDE // patch) ** 2
        self.embed = nnx.Linear(patch * patch, width, rngs=rngs)
        self.place = nnx.Param(0.02 * jax.random.normal(rngs.params(), (count, width)))
        self.blocks = nnx.List([Block(width, heads, rngs=rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.out = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Inputs (batch, 28, 28, 1) to logits (batch, 10)."""
        batch, side = x.shape[0], _SIDE // self.patch
        x = x.reshape(batch, side, self.patch, side, self.patch)
        x = x.transpose(0, 1, 3, 2, 4).reshape(batch, side * side, self.patch**2)
        x = self.embed(x) + self.place[...]
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x.mean(1)))


def _build(config: Config, rngs: nnx.Rngs) -> Transformer:
    return Transformer(
        config["width"], config["heads"], config["depth"], config["patch"], rngs=rngs
    )


task = classification(
    "mnist5k_vit",
    load=images.data,
    build=_build,
    defaults={"width": 64, "heads": 4, "depth": 2, "patch": 4},
)
