"""Networks that latency models are judged on: MLPs, CNNs and transformers at random sizes.

Calibration has never seen them: it measures chains of single layers (`workload` of the latency
model), these are whole models as people write them, with residuals, normalisation, pooling, patches
and heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paretax.evaluators.latency_model.workload import FORMS, Sampled, convolve, deployed

BATCHES = (1, 4, 16, 64)
MOST = 8e8
"""Multiplications of a call, at most: about 0.05 s on one core."""

Params = dict[str, Any]
_Predict = Callable[[Params, Params, jax.Array], jax.Array]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A program to judge on.

    Args:
        family: mlp, cnn or transformer.
        form: float32, bfloat16 or int8.
        batch: examples in a call.
        program: as it is deployed.
    """

    family: str
    form: str
    batch: int
    program: Sampled


class _Weights:
    """Shapes of the weights that a model asked for."""

    def __init__(self) -> None:
        self.shapes: dict[str, jax.ShapeDtypeStruct] = {}

    def new(self, *shape: int) -> str:
        name = f"w{len(self.shapes):03d}"
        self.shapes[name] = jax.ShapeDtypeStruct(shape, jnp.float32)
        return name


def networks(seed: int, count: int) -> Iterator[Network]:
    """Networks of all families, forms and batch sizes in turn, each of sizes of its own."""
    families = {"mlp": _mlp, "cnn": _cnn, "transformer": _transformer}
    names = list(families)
    forms = ("float32", "bfloat16", "int8")
    for index in range(count):
        family = names[index % 3]
        form = (index // 3) % 3
        batch = BATCHES[(index // 9) % 4]
        for attempt in range(1000):
            rng = np.random.default_rng([seed, index, attempt])
            predict, weights, shape, work = families[family](rng)
            if work * batch <= MOST:
                break
        inputs = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
        program = deployed(predict, weights.shapes, inputs, FORMS[form])
        yield Network(family=family, form=forms[form], batch=batch, program=program)


_Made = tuple[_Predict, _Weights, tuple[int, ...], float]


def _pick(rng: np.random.Generator, *values: int) -> int:
    return int(rng.choice(values))


def _mlp(rng: np.random.Generator) -> _Made:
    """Dense layers with a ReLU or GELU between; some with residuals and layer normalisation."""
    features, outputs = _pick(rng, 13, 64, 128, 784, 2000), _pick(rng, 2, 10, 100)
    width, depth = _pick(rng, 32, 64, 100, 128, 256, 512, 1024), _pick(rng, 1, 2, 3, 5, 8)
    act = jax.nn.relu if rng.random() < 0.5 else jax.nn.gelu
    residual = bool(rng.random() < 0.4)
    weights = _Weights()
    sizes = [features, *[width] * depth, outputs]
    layers = [(weights.new(a, b), weights.new(b)) for a, b in pairwise(sizes)]
    norms = [(weights.new(width), weights.new(width)) for _ in range(depth)]

    def predict(p: Params, state: Params, x: jax.Array) -> jax.Array:
        for (w, b), (gain, bias) in zip(layers[:-1], norms, strict=True):
            y = act(x @ p[w] + p[b])
            if residual:
                y = _layer_norm(y, p[gain], p[bias])
                y = x + y if x.shape == y.shape else y
            x = y
        return x @ p[layers[-1][0]] + p[layers[-1][1]]

    return (
        predict,
        weights,
        (features,),
        float(sum(math.prod(weights.shapes[w].shape) for w, _ in layers)),
    )


def _cnn(rng: np.random.Generator) -> _Made:
    """Plain, residual, or depthwise-separable convolutions in stages, and a dense head."""
    side, channels = _pick(rng, 8, 16, 28, 32, 64, 96), _pick(rng, 1, 3)
    width, stages = _pick(rng, 8, 12, 16, 24, 32, 64), _pick(rng, 1, 2, 3)
    blocks, kernel = _pick(rng, 1, 2), _pick(rng, 3, 3, 5)
    style = str(rng.choice(["plain", "residual", "separable"]))
    pooled = bool(rng.random() < 0.5)
    weights, layers, work = _Weights(), [], 0.0
    size, ins = side, channels
    for stage in range(stages):
        outs = width * 2**stage
        for block in range(blocks):
            down = block == 0 and stage > 0
            stride = 2 if down and not pooled else 1
            if down and pooled:
                layers.append(("pool", ()))
            if down:
                size = -(-size // 2)
            separable = style == "separable" and ins > 3
            names = (
                (
                    weights.new(kernel, kernel, 1, ins),
                    weights.new(1, 1, ins, outs),
                    weights.new(outs),
                )
                if separable
                else (weights.new(kernel, kernel, ins, outs), weights.new(outs), weights.new(outs))
            )
            layers.append(
                (
                    "separable" if separable else "residual" if style == "residual" else "plain",
                    (*names, stride),
                )
            )
            work += size**2 * (
                20 * kernel**2 * ins + ins * outs if separable else kernel**2 * ins * outs
            )
            ins = outs
    flat = bool(rng.random() < 0.4)
    features = ins * size * size if flat else ins
    hidden = weights.new(features, 64), weights.new(64, 10)
    work += features * 64

    def predict(p: Params, state: Params, x: jax.Array) -> jax.Array:
        for name, parts in layers:
            if name == "pool":
                x = jax.lax.reduce_window(
                    x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"
                )
            elif name == "separable":
                depthwise, pointwise, bias, stride = parts
                x = jax.nn.relu(convolve(x, p[depthwise], stride, x.shape[-1]))
                x = jax.nn.relu(convolve(x, p[pointwise], 1, 1) + p[bias])
            else:
                w, bias, gain, stride = parts
                y = jax.nn.relu(convolve(x, p[w], stride, 1) * p[gain] + p[bias])
                x = x + y if name == "residual" and x.shape == y.shape else y
        x = x.reshape(x.shape[0], -1) if flat else x.mean((1, 2))
        return jax.nn.relu(x @ p[hidden[0]]) @ p[hidden[1]]

    return predict, weights, (side, side, channels), work


def _transformer(rng: np.random.Generator) -> _Made:
    """Encoder blocks over tokens that are there as vectors: attention, MLP, normalisation."""
    length, width = _pick(rng, 8, 16, 32, 64, 128, 197), _pick(rng, 32, 48, 64, 128, 192, 256)
    heads, depth = _pick(rng, 1, 2, 4), _pick(rng, 1, 2, 4)
    inner, features = width * _pick(rng, 2, 4), _pick(rng, 12, 48, 192)
    first = bool(rng.random() < 0.5)
    weights = _Weights()
    embed, place = weights.new(features, width), weights.new(length, width)
    blocks = [
        {
            "q": weights.new(width, width), "k": weights.new(width, width),
            "v": weights.new(width, width), "o": weights.new(width, width),
            "up": weights.new(width, inner), "down": weights.new(inner, width),
            "g1": weights.new(width), "b1": weights.new(width),
            "g2": weights.new(width), "b2": weights.new(width),
        }
        for _ in range(depth)
    ]  # fmt: skip
    head = weights.new(width, 10)

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(*x.shape[:2], heads, width // heads), 2, 1)

    def attend(p: Params, b: dict[str, str], x: jax.Array) -> jax.Array:
        q, k, v = (split(x @ p[b[name]]) for name in "qkv")
        scores = jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2) / math.sqrt(width // heads))
        return jnp.moveaxis(scores @ v, 1, 2).reshape(x.shape) @ p[b["o"]]

    def predict(p: Params, state: Params, x: jax.Array) -> jax.Array:
        x = x @ p[embed] + p[place]
        for b in blocks:
            if first:
                x = x + attend(p, b, _layer_norm(x, p[b["g1"]], p[b["b1"]]))
                y = _layer_norm(x, p[b["g2"]], p[b["b2"]])
                x = x + jax.nn.gelu(y @ p[b["up"]]) @ p[b["down"]]
            else:
                x = _layer_norm(x + attend(p, b, x), p[b["g1"]], p[b["b1"]])
                y = jax.nn.gelu(x @ p[b["up"]]) @ p[b["down"]]
                x = _layer_norm(x + y, p[b["g2"]], p[b["b2"]])
        return x.mean(1) @ p[head]

    a_block = length * (4 * width**2 + 2 * width * inner) + 2 * length**2 * width
    return predict, weights, (length, features), float(length * features * width + depth * a_block)


def _layer_norm(x: jax.Array, gain: jax.Array, bias: jax.Array) -> jax.Array:
    return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(
        x.var(-1, keepdims=True) + 1e-6
    ) * gain + bias
