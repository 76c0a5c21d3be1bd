"""Layers over time, and tables."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tests.agreement.made import Made, Shape, biased, in_linen, in_nnx, normal
from tests.agreement.reference import Array, Reference, dense, sigmoid, softmax


def recurrent(shape: Shape, width: int) -> Made:
    """An LSTM whose gates' kernels are joined (linen), or lie in one array (nnx)."""
    steps, inputs = shape
    names = "ifgo"

    def kept(types: dict[str, Any]) -> dict[str, Any]:
        """Weights stay in float32: their first values are orthogonal, which JAX has in no other."""
        return {name: value for name, value in types.items() if name != "param_dtype"}

    def cell_in_nnx(rngs: nnx.Rngs, **types: Any) -> Any:
        return nnx.RNN(nnx.OptimizedLSTMCell(inputs, width, rngs=rngs, **kept(types)), rngs=rngs)

    def cell_in_linen(name: str, **types: Any) -> Any:
        return linen.OptimizedLSTMCell(width, name=name, **kept(types))

    def naive(ref: Reference, prefix: str, x: Array) -> Array:
        joined = f"{prefix}/cell/dense_i/kernel" in ref.weights
        c = h = np.zeros((len(x), width))
        found = []
        for t in range(steps):
            if joined:
                one = ref.product(f"{prefix}/cell/dense_i/kernel", x[:, t], (0,), dense)
                two = ref.product(f"{prefix}/cell/dense_h/kernel", h, (0,), dense)
                two = biased(ref, f"{prefix}/cell/dense_h", two)
                parts = np.split(ref.cast(one + two), 4, axis=-1)
            else:
                parts = []
                for gate in names:
                    one = ref.product(f"{prefix}/cell/i{gate}/kernel", x[:, t], (0,), dense)
                    two = ref.product(f"{prefix}/cell/h{gate}/kernel", h, (0,), dense)
                    two = biased(ref, f"{prefix}/cell/h{gate}", two)
                    parts.append(ref.cast(one + two))
            i, f, g, o = parts
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            found.append(h)
        return np.stack(found, axis=1)

    return Made(
        kind=f"LSTM {width}",
        out=(steps, width),
        weights=(),  # named otherwise in each system: see `recurrent_weights`
        naive=naive,
        nnx=cell_in_nnx,
        linen=in_linen("cell", cell_in_linen, lambda cell, x: linen.RNN(cell)(x)),
    )


def recurrent_weights(system: str) -> tuple[str, ...]:
    """The kernels of an LSTM's cell."""
    if system == "nnx":
        return "cell/dense_i/kernel", "cell/dense_h/kernel"
    return tuple(f"cell/{side}{gate}/kernel" for side in "ih" for gate in "ifgo")


def attention(shape: Shape, heads: int) -> Made:
    """Self-attention with heads, around which its input goes as well."""
    features = shape[-1]

    def kept(types: dict[str, Any]) -> dict[str, Any]:
        """Float32 in place of float16, for which XLA has no such product on the CPU."""
        return {} if types.get("dtype") == jnp.float16 else types

    def layer_in_nnx(rngs: nnx.Rngs, **types: Any) -> Any:
        return nnx.MultiHeadAttention(heads, features, decode=False, rngs=rngs, **kept(types))

    def layer_in_linen(name: str, **types: Any) -> Any:
        return linen.MultiHeadDotProductAttention(heads, name=name, **kept(types))

    def run(layer: Any, x: jax.Array) -> jax.Array:
        return x + layer(x)

    def naive(ref: Reference, prefix: str, x: Array) -> Array:
        inner = f"{prefix}/inner"
        into = lambda x, w: np.einsum("btd,dhk->bthk", x, w)  # noqa: E731
        query, key, value = (
            biased(ref, f"{inner}/{n}", ref.product(f"{inner}/{n}/kernel", x, (0,), into))
            for n in ("query", "key", "value")
        )
        scores = np.einsum("bthk,bshk->bhts", query / math.sqrt(features // heads), key)
        mixed = np.einsum("bhts,bshk->bthk", softmax(scores), value)
        out = lambda x, w: np.einsum("bthk,hkd->btd", x, w)  # noqa: E731
        return x + biased(
            ref, f"{inner}/out", ref.product(f"{inner}/out/kernel", mixed, (0, 1), out)
        )

    return Made(
        kind=f"attention, {heads} heads",
        out=shape,
        weights=tuple(f"inner/{n}/kernel" for n in ("query", "key", "value", "out")),
        naive=naive,
        nnx=in_nnx("inner", layer_in_nnx, run),
        linen=in_linen("inner", layer_in_linen, run),
    )


def embedding(steps: int, rows: int, width: int) -> Made:
    """Rows of a table by whole numbers."""

    def naive(ref: Reference, prefix: str, x: Array) -> Array:
        name = f"{prefix}/embedding"
        return ref.rows(name, x.astype(int))

    return Made(
        kind=f"embedding {rows} x {width}",
        out=(steps, width),
        weights=("embedding",),
        naive=naive,
        nnx=lambda rngs, **types: nnx.Embed(rows, width, rngs=rngs, **types),
        linen=lambda name, **types: linen.Embed(rows, width, name=name, **types),
        init=lambda key: {"embedding": normal(key, (rows, width), 1)},
        apply=lambda p, x: jnp.take(p["embedding"], x, axis=0),
    )


def tied(steps: int, rows: int, width: int) -> Made:
    """A table of tokens that is the output layer as well."""
    table = embedding(steps, rows, width)

    def run(table: Any, x: jax.Array) -> jax.Array:
        return table.attend(jnp.tanh(table(x).mean(axis=1)))

    def naive(ref: Reference, prefix: str, x: Array) -> Array:
        name = f"{prefix}/table/embedding"
        hidden = np.tanh(ref.rows(name, x.astype(int), (1,)).mean(axis=1))
        return ref.product(name, hidden, (1,), lambda x, w: x @ w.T, grouped=True)

    return Made(
        kind=f"tied table {rows} x {width}",
        out=(rows,),
        weights=("table/embedding",),
        naive=naive,
        nnx=in_nnx("table", table.nnx, run),
        linen=in_linen("table", table.linen, run),
        init=lambda key: {"table": {"embedding": normal(key, (rows, width), 1)}},
        apply=lambda p, x: (
            jnp.tanh(jnp.take(p["table"]["embedding"], x, axis=0).mean(axis=1))
            @ p["table"]["embedding"].T
        ),
    )
