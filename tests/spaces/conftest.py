"""Models of many kinds, in flax.nnx and in flax.linen, whose channels can or cannot be removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from paretax.tasks import Arrays, Data, Model, Split, build_model, classification


@dataclass(frozen=True, kw_only=True, eq=False)
class Zoo:
    """One model with arrays, of which none is constant, and what can be removed from it.

    Args:
        predict: the model in inference mode.
        params: its parameters.
        state: its state.
        inputs: a batch of five.
        groups: name -> kind and size.
        refused: the names of the weights that are refused, with a part of the reason.
        tolerance: by which results may differ.
    """

    predict: Callable[..., Any]
    params: Arrays
    state: Arrays
    inputs: jax.Array
    groups: Mapping[str, tuple[str, int]]
    refused: Mapping[str, str]
    tolerance: float


OUTPUT = "an output of the model"
NORM = "LayerNorm"


class NnxMLP(nnx.Module):
    """Dense layers with biases; sigmoid is not zero at zero."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.one = nnx.Linear(6, 8, rngs=rngs)
        self.two = nnx.Linear(8, 5, rngs=rngs)
        self.out = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(nnx.gelu(self.two(jax.jit(nnx.sigmoid)(self.one(x)))))


class LinenMLP(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.sigmoid(linen.Dense(8, name="one")(x))
        x = linen.gelu(linen.Dense(5, name="two")(x))
        return linen.Dense(3, name="out")(x)


class NnxCNN(nnx.Module):
    """Flattened after pooling; the norms lie between convolution and activation."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.one = nnx.Conv(1, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.two = nnx.Conv(6, 4, (3, 3), strides=2, rngs=rngs)
        self.norm2 = nnx.BatchNorm(4, rngs=rngs)
        self.out = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.avg_pool(nnx.silu(self.norm(self.one(x))), (2, 2), (2, 2))
        x = nnx.relu(self.norm2(self.two(x)))
        return self.out(x.reshape(x.shape[0], -1))


class LinenCNN(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = linen.Conv(6, (3, 3), name="one")(x)
        x = linen.silu(linen.BatchNorm(use_running_average=not train, name="norm")(x))
        x = linen.Conv(4, (3, 3), strides=2, name="two")(linen.avg_pool(x, (2, 2), (2, 2)))
        x = linen.relu(linen.BatchNorm(use_running_average=not train, name="norm2")(x))
        return linen.Dense(3, name="out")(x.reshape(x.shape[0], -1))


class NnxResidual(nnx.Module):
    """Branches that are added have one group; a rematerialised block is looked into."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.one = nnx.Conv(4, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.two = nnx.Conv(6, 4, (3, 3), rngs=rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.softplus(self.stem(x))
        y = nnx.remat(lambda m, x: m.two(nnx.relu(m.norm(m.one(x)))))(self, x)
        return self.out((x + y).mean(axis=(1, 2)))


class LinenResidual(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = linen.softplus(linen.Conv(4, (3, 3), name="stem")(x))
        y = linen.remat(linen.Conv)(6, (3, 3), name="one")(x)
        y = linen.relu(linen.BatchNorm(use_running_average=not train, name="norm")(y))
        y = linen.jit(linen.Conv)(4, (3, 3), name="two")(y)
        return linen.Dense(3, name="out")((x + y).mean(axis=(1, 2)))


class NnxSeparable(nnx.Module):
    """Depthwise with a multiplier, then pointwise, then grouped."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(1, 6, (3, 3), rngs=rngs)
        self.depth = nnx.Conv(6, 12, (3, 3), feature_group_count=6, rngs=rngs)
        self.point = nnx.Conv(12, 8, (1, 1), rngs=rngs)
        self.plain = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.grouped = nnx.Conv(8, 4, (3, 3), feature_group_count=2, rngs=rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.elu(self.point(nnx.sigmoid(self.depth(nnx.relu(self.stem(x))))))
        x = nnx.leaky_relu(self.grouped(nnx.tanh(self.plain(x))))
        return self.out(x.max(axis=(1, 2)))


class LinenSeparable(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.relu(linen.Conv(6, (3, 3), name="stem")(x))
        x = linen.sigmoid(linen.Conv(12, (3, 3), feature_group_count=6, name="depth")(x))
        x = linen.elu(linen.Conv(8, (1, 1), name="point")(x))
        x = linen.tanh(linen.Conv(8, (3, 3), feature_group_count=8, name="plain")(x))
        x = linen.leaky_relu(linen.Conv(4, (3, 3), feature_group_count=2, name="grouped")(x))
        return linen.Dense(3, name="out")(x.max(axis=(1, 2)))


class NnxTokens(nnx.Module):
    """Embedding, learned positions, attention with a residual, and the mean over the tokens."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(11, 6, rngs=rngs)
        self.positions = nnx.Param(jnp.zeros((7, 6)))
        self.attention = nnx.MultiHeadAttention(
            4, 6, qkv_features=12, out_features=6, decode=False, rngs=rngs
        )
        self.out = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.embed(x) + self.positions[...]
        x = x + self.attention(x, mask=nnx.make_causal_mask(x[..., 0]))
        return self.out(x.mean(axis=1))


class LinenTokens(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.Embed(11, 6, name="embed")(x)
        x = x + self.param("positions", linen.initializers.zeros, (7, 6))
        attention = linen.MultiHeadDotProductAttention(4, qkv_features=12, name="attention")
        x = x + attention(x, mask=linen.make_causal_mask(x[..., 0]))
        return linen.Dense(3, name="out")(x.mean(axis=1))


class NnxBlock(nnx.Module):
    """The residual stream goes through layer norms; inside the blocks, heads and units can go."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(11, 8, rngs=rngs)
        self.norm1 = nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(8, rngs=rngs)
        self.up = nnx.Linear(8, 16, rngs=rngs)
        self.down = nnx.Linear(16, 8, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.embed(x)
        x = x + self.attention(self.norm1(x))
        x = x + self.down(nnx.gelu(self.up(self.norm2(x))))
        return self.out(x.mean(axis=1))


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.Embed(11, 8, name="embed")(x)
        y = linen.LayerNorm(name="norm1")(x)
        x = x + linen.MultiHeadDotProductAttention(2, name="attention")(y)
        y = linen.gelu(linen.Dense(16, name="up")(linen.LayerNorm(name="norm2")(x)))
        x = x + linen.Dense(8, name="down")(y)
        return linen.Dense(3, name="out")(x.mean(axis=1))


class NnxMixed(nnx.Module):
    """bfloat16 products, and a group norm, which only lets whole groups go."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(1, 8, (3, 3), rngs=rngs, dtype=jnp.bfloat16)
        self.norm = nnx.GroupNorm(8, 4, rngs=rngs)
        self.two = nnx.Linear(8, 6, rngs=rngs, dtype=jnp.bfloat16)
        self.out = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.hard_swish(self.norm(self.stem(x)))
        return self.out(nnx.relu6(self.two(x)).mean(axis=(1, 2)).astype(jnp.float32))


class LinenMixed(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.Conv(8, (3, 3), name="stem", dtype=jnp.bfloat16)(x)
        x = linen.hard_swish(linen.GroupNorm(4, name="norm")(x))
        x = linen.relu6(linen.Dense(6, name="two", dtype=jnp.bfloat16)(x))
        return linen.Dense(3, name="out")(x.mean(axis=(1, 2)).astype(jnp.float32))


FEATURES, IMAGES, TOKENS = (6,), (4, 4, 1), (7,)
IMAGES8 = (8, 8, 1)
_ONLY_OUT = {"out/kernel": OUTPUT}
_ATTENTION = {
    "attention/query/kernel": ("heads", 4),
    "attention/query/kernel#2": ("channels", 3),
    "attention/value/kernel": ("channels", 3),
}
KINDS: dict[str, tuple[Any, Any, tuple[int, ...], dict[str, Any], dict[str, str]]] = {
    "mlp": (
        NnxMLP,
        LinenMLP,
        FEATURES,
        {"one/kernel": ("channels", 8), "two/kernel": ("channels", 5)},
        _ONLY_OUT,
    ),
    "cnn": (
        NnxCNN,
        LinenCNN,
        IMAGES8,
        {"one/kernel": ("channels", 6), "two/kernel": ("channels", 4)},
        _ONLY_OUT,
    ),
    "residual": (
        NnxResidual,
        LinenResidual,
        IMAGES,
        {"stem/kernel": ("channels", 4), "one/kernel": ("channels", 6)},
        _ONLY_OUT,
    ),
    "separable": (
        NnxSeparable,
        LinenSeparable,
        IMAGES,
        {
            "stem/kernel": ("channels", 6),
            "depth/kernel": ("channels", 2),
            "point/kernel": ("channels", 2),
            "point/kernel#2": ("channels", 4),
            "grouped/kernel": ("channels", 2),
        },
        _ONLY_OUT,
    ),
    "tokens": (
        NnxTokens,
        LinenTokens,
        TOKENS,
        {"embed/embedding": ("channels", 6), **_ATTENTION},
        _ONLY_OUT,
    ),
    "block": (
        NnxBlock,
        LinenBlock,
        TOKENS,
        {
            "attention/query/kernel": ("heads", 2),
            "attention/query/kernel#2": ("channels", 4),
            "attention/value/kernel": ("channels", 4),
            "up/kernel": ("channels", 16),
        },
        {
            "embed/embedding": NORM,
            "attention/out/kernel": NORM,
            "down/kernel": NORM,
            "out/kernel": OUTPUT,
        },
    ),
    "mixed": (
        NnxMixed,
        LinenMixed,
        IMAGES,
        {"stem/kernel": ("channels", 4), "two/kernel": ("channels", 6)},
        _ONLY_OUT,
    ),
}


def _no_data() -> Data:
    part = Split(np.zeros((2, 4), np.float32), np.arange(2))
    return Data(train=part, validation=part, test=part)


def _make(build: Any, shape: tuple[int, ...]) -> tuple[Model, Arrays, Arrays, jax.Array]:
    rng = np.random.default_rng(0)
    tokens = shape == TOKENS
    inputs = rng.integers(0, 11, (5, 7)) if tokens else rng.normal(size=(5, *shape))
    x = jnp.asarray(inputs, jnp.int32 if tokens else jnp.float32)
    task = classification("zoo", load=_no_data, build=build, defaults={})
    model = build_model(task, {}, jax.ShapeDtypeStruct((1, *shape), x.dtype))
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    params = {n: jnp.asarray(rng.normal(0, 0.5, a.shape), a.dtype) for n, a in params.items()}
    state = {n: jnp.asarray(rng.uniform(0.5, 1.5, a.shape), a.dtype) for n, a in state.items()}
    return model, params, state, x


@pytest.fixture(
    scope="session", params=[f"{kind}-{api}" for kind in KINDS for api in ("nnx", "linen")]
)
def zoo(request: pytest.FixtureRequest) -> Zoo:
    """A model of each kind in each API."""
    kind, api = request.param.split("-")
    in_nnx, in_linen, shape, groups, refused = KINDS[kind]
    build = (lambda config, rngs: in_nnx(rngs)) if api == "nnx" else (lambda config: in_linen())
    model, params, state, inputs = _make(build, shape)
    return Zoo(
        predict=model.predict,
        params=params,
        state=state,
        inputs=inputs,
        groups=groups,
        refused=refused,
        tolerance=2e-2 if kind == "mixed" else 1e-5,
    )


# Models to compress -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Example:
    """A model with arrays, of which none is constant, and a batch of five inputs."""

    predict: Callable[..., Any]
    params: Arrays
    state: Arrays
    inputs: jax.Array


class NnxStack(nnx.Module):
    """Look-ups, three blocks of attention and an MLP under one scan, and an output layer."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stacked(rngs: nnx.Rngs) -> NnxStackBlock:
            return NnxStackBlock(rngs)

        self.embed = nnx.Embed(11, 8, rngs=rngs)
        self.blocks = stacked(rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def deeper(x: jax.Array, block: NnxStackBlock) -> jax.Array:
            return block(x)

        return self.out(deeper(self.embed(x), self.blocks).mean(axis=1))


class NnxStackBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.up = nnx.Linear(8, 16, rngs=rngs)
        self.down = nnx.Linear(16, 8, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(x)
        return x + self.down(nnx.relu(self.up(self.norm(x))))


class LinenStackBlock(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        x = x + linen.MultiHeadDotProductAttention(2, name="attention")(x)
        y = linen.relu(linen.Dense(16, name="up")(linen.LayerNorm(name="norm")(x)))
        return x + linen.Dense(8, name="down")(y), None


class LinenStack(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.Embed(11, 8, name="embed")(x)
        scanned = linen.scan(
            LinenStackBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        x, _ = scanned(name="blocks")(x, None)
        return linen.Dense(3, name="out")(x.mean(axis=1))


STACKS: dict[str, tuple[Any, Any, tuple[int, ...]]] = {"stack": (NnxStack, LinenStack, TOKENS)}


@pytest.fixture(scope="session")
def example() -> Callable[[str], Example]:
    """A model by name, such as "cnn-nnx" or "stack-linen"."""

    @cache
    def make(name: str) -> Example:
        kind, api = name.split("-")
        in_nnx, in_linen, shape = STACKS[kind] if kind in STACKS else KINDS[kind][:3]
        build = (lambda config, rngs: in_nnx(rngs)) if api == "nnx" else (lambda config: in_linen())
        model, params, state, inputs = _make(build, shape)
        return Example(predict=model.predict, params=params, state=state, inputs=inputs)

    return make
