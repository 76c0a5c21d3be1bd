"""Small random programs, whose kernels calibration measures.

They are chains of one to four layers at random sizes, deployed as candidates are: in float32,
bfloat16, or with 8-bit integers. They cover the kinds of kernels that models are made of; no
network is among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paretax.spaces.compression import deploy, deployed_shapes
from paretax.spaces.recipe import Recipe
from paretax.spaces.sites import find_sites

FORMS: tuple[dict[str, Any], ...] = ({}, {"precision": "bfloat16"}, {"quantize": True})
"""In which a program is deployed: float32, bfloat16, 8-bit integers."""

LARGEST = 5e8
"""Multiplications of a program, at most."""

_ACTIVATIONS: tuple[Callable[[jax.Array], jax.Array], ...] = (
    lambda x: x,
    jax.nn.relu,
    jax.nn.relu,
    jax.nn.gelu,
    jax.nn.silu,
    jnp.tanh,
    jax.nn.sigmoid,
)


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """A program of the workload.

    Args:
        function: (arrays, inputs) -> outputs.
        args: shapes of both.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]


_KINDS = ("matrix", "image", "image", "sequence", "image", "matrix", "image", "image", "sequence")
"""Of inputs, in turn; most are images, as convolutions differ most from each other."""

_Layer = Callable[[dict[str, jax.Array], jax.Array], jax.Array]


@dataclass
class _Chain:
    """A model under construction."""

    rng: np.random.Generator
    params: dict[str, jax.ShapeDtypeStruct] = field(default_factory=dict)
    layers: list[_Layer] = field(default_factory=list)

    def size(self, low: int, high: int) -> int:
        """A length, evenly spread on a logarithmic scale, mostly a multiple of a power of two."""
        value = round(2 ** self.rng.uniform(math.log2(low), math.log2(high)))
        grain = int(self.rng.choice([1, 8, 16, 32, 64], p=[0.2, 0.2, 0.2, 0.2, 0.2]))
        if value > grain:
            value = round(value / grain) * grain
        return int(min(max(value, low), high))

    def batch(self, high: int) -> int:
        """Examples in a call; often a single one, which compilers treat differently."""
        return 1 if self.rng.random() < 0.25 else self.size(1, high)

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.params)}"
        self.params[name] = jax.ShapeDtypeStruct(shape, jnp.float32)
        return name

    def activation(self) -> Callable[[jax.Array], jax.Array]:
        return _ACTIVATIONS[self.rng.integers(len(_ACTIVATIONS))]

    def predict(
        self, params: dict[str, jax.Array], state: dict[str, jax.Array], inputs: jax.Array
    ) -> jax.Array:
        for layer in self.layers:
            inputs = layer(params, inputs)
        return inputs


def sample(seed: int, index: int) -> Sampled:
    """One program. Equal numbers give an equal program.

    Args:
        seed: of the workload.
        index: of the program in it.
    """
    for attempt in range(100):
        rng = np.random.default_rng([seed, index, attempt])
        chain = _Chain(rng)
        kind = _KINDS[index % len(_KINDS)]
        shape: tuple[int, ...] = (chain.batch(256), chain.size(4, 2048))
        if kind == "image":
            side = chain.size(4, 112)
            channels = (1, 3)[rng.integers(2)] if rng.random() < 0.3 else chain.size(4, 128)
            shape = (chain.batch(64), side, side, int(channels))
        elif kind == "sequence":
            shape = (chain.batch(32), chain.size(4, 128), 8 * chain.size(2, 64))
        start, cost = shape, 0.0
        for _ in range(rng.integers(1, 7)):
            shape, work = _grow(chain, kind, shape)
            cost += work
            kind = {2: "matrix", 3: "sequence", 4: "image"}[len(shape)]
        if rng.random() < 0.6:  # a small result, as models have: what comes before stays inside
            shape, work = _summary(chain, shape)
            cost += work
        if cost <= LARGEST and math.prod(start) <= 2**23:
            break
    form = FORMS[int(rng.integers(len(FORMS)))]
    return deployed(chain.predict, chain.params, jax.ShapeDtypeStruct(start, jnp.float32), form)


def deployed(
    predict: Callable[..., Any],
    params: dict[str, jax.ShapeDtypeStruct],
    inputs: jax.ShapeDtypeStruct,
    form: dict[str, Any],
) -> Sampled:
    """A model as paretax deploys it.

    Args:
        predict: (params, state, inputs) -> outputs; it has no state.
        params: shapes of the weights.
        inputs: shape of a batch.
        form: a candidate's settings of its precision.
    """
    sites = find_sites(predict, params, {}, inputs)
    recipe = Recipe.of(form, sites)
    function = deploy(predict, sites, recipe, ())
    return Sampled(function=function, args=(deployed_shapes(recipe, sites, params, {}), inputs))


def arguments(program: Sampled, seed: int) -> tuple[Any, ...]:
    """Plausible values for the arguments of a program."""
    rng = np.random.default_rng(seed)

    def value(shape: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(shape.dtype, jnp.integer):
            return jnp.asarray(rng.integers(-100, 100, shape.shape), shape.dtype)
        scaled = np.abs(rng.standard_normal(shape.shape, np.float32)) * 0.1 + 0.01
        return jnp.asarray(scaled, shape.dtype)

    return tuple(jax.tree.map(value, program.args))


def workload(seed: int, count: int) -> Iterator[Sampled]:
    """Programs of a workload, of all kinds in turn."""
    for index in range(count):
        yield sample(seed, index)


def _grow(chain: _Chain, kind: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], float]:
    """Add a layer; the new shape, and its multiplications."""
    makers = {
        "matrix": (_dense, _dense, _dense, _dense, _norm, _softmax, _elementwise),
        "image": (
            _convolution, _convolution, _convolution, _convolution, _depthwise, _depthwise, _pool,
            _norm, _elementwise, _flatten, _global_mean,
        ),
        "sequence": (_dense, _dense, _attention, _attention, _norm, _softmax, _mean, _swap),
    }[kind]  # fmt: skip
    return makers[int(chain.rng.integers(len(makers)))](chain, shape)


_Grown = tuple[tuple[int, ...], float]


def _dense(chain: _Chain, shape: tuple[int, ...]) -> _Grown:
    width, act = chain.size(4, 2048), chain.activation()
    weight, bias = chain.weight(shape[-1], width), chain.weight(width)
    chain.layers.append(lambda p, x: act(x @ p[weight] + p[bias]))
    return (*shape[:-1], width), math.prod(shape) * width


def _convolution(chain: _Chain, shape: tuple[int, ...]) -> _Grown:
    side = int(chain.rng.choice([1, 3, 3, 5]))
    stride = int(chain.rng.choice([1, 1, 2]))
    width, act = chain.size(4, 256), chain.activation()
    weight, bias = chain.weight(side, side, shape[-1], width), chain.weight(width)

    def layer(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return act(convolve(x, p[weight], stride, 1) + p[bias])

    chain.layers.append(layer)
    out = (shape[0], -(-shape[1] // stride), -(-shape[2] // stride), width)
    return out, math.prod(out) * side * side * shape[-1]


def _depthwise(chain: _Chain, shape: tuple[int, ...]) -> _Grown:
    side, stride = int(chain.rng.choice([3, 5])), int(chain.rng.choice([1, 2]))
    act = chain.activation()
    weight = chain.weight(side, side, 1, shape[-1])
    chain.layers.append(lambda p, x: act(convolve(x, p[weight], stride, x.shape[-1])))
    out = (shape[0], -(-shape[1] // stride), -(-shape[2] // stride), shape[-1])
    return out, 20.0 * math.prod(out) * side * side  # slow on many backends


def convolve(x: jax.Array, weight: jax.Array, stride: int, groups: int) -> jax.Array:
    """A padded convolution of images (batch, rows, columns, channels)."""
    return jax.lax.conv_general_dilated(
        x,
        weight,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _pool(chain: _Chain, shape: tuple[int, ...]) -> _Grown:
    largest = bool(chain.rng.random() < 0.5)
    start: float = -jnp.inf if largest else 0.0
    operation = jax.lax.max if largest else jax.lax.add
    window = (1, 2, 2, 1)
    chain.layers.append(
        lambda p, x: jax.lax.reduce_window(x, start, operation, window, window, "SAME")
    )
    return (shape[0], -(-shape[1] // 2), -(-shape[2] // 2), shape[3]), math.prod(shape)


def _norm(chain: _Chain, shape: tuple[int, ...]) -> _Grown:
    gain, bias = chain.weight(shape[-1]), chain.weight(shape[-1])
    layered = bool(chain.rng.random() < 0.5)

    def layer(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        if layered:
            x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * p[gain] + p[bias]

    chain.layers.append(layer)
    return shape, 4.0 * math.prod(shape)


def _softmax(chain: _Chain, shape: tuple[int, ...]) -> _Grown:
    chain.layers.append(lambda p, x: jax.nn.softmax(x))
    return shape, 8.0 * math.prod(shape)


def _elementwise(chain: _Chain, shape: tuple[int, ...]) -> _Grown:
    first, second = chain.activation(), chain.activation()
    chain.layers.append(lambda p, x: first(x) + 0.5 * second(x) * x)
    return shape, 8.0 * math.prod(shape)


def _flatten(chain: _Chain, shape: tuple[int, ...]) -> _Grown:
    chain.layers.append(lambda p, x: x.reshape(x.shape[0], -1))
    return (shape[0], math.prod(shape[1:])), math.prod(shape)


def _global_mean(chain: _Chain, shape: tuple[int, ...]) -> _Grown:
    chain.layers.append(lambda p, x: x.mean((1, 2)))
    return (shape[0], shape[-1]), math.prod(shape)


def _summary(chain: _Chain, shape: tuple[int, ...]) -> _Grown:
    """Means over all positions, and a dense layer."""
    inner = tuple(range(1, len(shape) - 1))
    width = chain.size(2, 32)
    weight = chain.weight(shape[-1], width)
    chain.layers.append(lambda p, x: x.mean(inner) @ p[weight])
    return (shape[0], width), float(math.prod(shape) + shape[-1] * width)


def _mean(chain: _Chain, shape: tuple[int, ...]) -> _Grown:
    chain.layers.append(lambda p, x: x.mean(1))
    return (shape[0], shape[-1]), math.prod(shape)


def _swap(chain: _Chain, shape: tuple[int, ...]) -> _Grown:
    chain.layers.append(lambda p, x: jnp.swapaxes(x, 1, 2) * 2.0)
    return (shape[0], shape[2], shape[1]), math.prod(shape)


def _attention(chain: _Chain, shape: tuple[int, ...]) -> _Grown:
    batch, length, width = shape
    heads = int(chain.rng.choice([h for h in (1, 2, 4, 8) if width % h == 0]))
    weight, out = chain.weight(width, 3 * width), chain.weight(width, width)

    def layer(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        parts = (x @ p[weight]).reshape(batch, length, 3, heads, width // heads)
        q, k, v = (jnp.moveaxis(parts[:, :, i], 2, 1) for i in range(3))
        scores = jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2) / math.sqrt(width // heads))
        mixed = jnp.moveaxis(scores @ v, 1, 2).reshape(batch, length, width)
        return x + mixed @ p[out]

    chain.layers.append(layer)
    return shape, 4.0 * batch * length * width**2 + 2.0 * batch * length**2 * width
