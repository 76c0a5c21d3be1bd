"""Dense layers, plain and in odd layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tests.agreement.made import Made, Params, Run, Shape, biased, in_linen, in_nnx, normal
from tests.agreement.reference import Array, Reference, dense, sigmoid


def plain_dense(shape: Shape, width: int) -> Made:
    """A dense layer with a bias."""
    inputs = shape[-1]

    def naive(ref: Reference, prefix: str, x: Array) -> Array:
        return biased(ref, prefix, ref.product(f"{prefix}/kernel", x, (0,), dense))

    return Made(
        kind=f"dense {width}",
        out=(*shape[:-1], width),
        weights=("kernel",),
        naive=naive,
        nnx=lambda rngs, **types: nnx.Linear(inputs, width, rngs=rngs, **types),
        linen=lambda name, **types: linen.Dense(width, name=name, **types),
        init=lambda key: {"kernel": normal(key, (inputs, width), inputs), "bias": jnp.zeros(width)},
        apply=lambda p, x: x @ p["kernel"] + p["bias"],
    )


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a dense layer's weight is laid out.

    Args:
        stored: (inputs, outputs) -> shape of the parameter.
        axes: of the parameter, over which the product sums.
        run: (x, parameter) -> the product, as JAX's users write it.
        matrix: parameter -> (inputs, outputs), in NumPy.
    """

    stored: Callable[[int, int], Shape]
    axes: Sequence[int]
    run: Callable[[jax.Array, jax.Array], jax.Array]
    matrix: Callable[[Array], Array]


def _plain(inputs: int, outputs: int) -> Shape:
    return inputs, outputs


_FORMS: Mapping[str, Form] = {
    "transposed": Form(
        stored=lambda i, o: (o, i), axes=(1,), run=lambda x, w: x @ w.T, matrix=lambda w: w.T
    ),
    "einsum": Form(
        stored=lambda i, o: (o, i),
        axes=(1,),
        run=lambda x, w: jnp.einsum("...i,oi->...o", x, w),
        matrix=lambda w: w.T,
    ),
    "scaled": Form(
        stored=_plain, axes=(0,), run=lambda x, w: x @ (w * 0.5), matrix=lambda w: w * 0.5
    ),
    "frozen": Form(
        stored=_plain,
        axes=(0,),
        run=lambda x, w: x @ jax.lax.stop_gradient(w),
        matrix=lambda w: w,
    ),
    "squeezed": Form(
        stored=lambda i, o: (1, i, o),
        axes=(1,),
        run=lambda x, w: x @ jnp.squeeze(w, 0),
        matrix=lambda w: w[0],
    ),
    "lifted": Form(
        stored=_plain,
        axes=(0,),
        run=lambda x, w: jnp.squeeze(x[None] @ w[None], 0),
        matrix=lambda w: w,
    ),
    "reshaped": Form(
        stored=lambda i, o: (i, o // 2, 2),
        axes=(0,),
        run=lambda x, w: x @ w.reshape(w.shape[0], -1),
        matrix=lambda w: w.reshape(w.shape[0], -1),
    ),
    "parted": Form(
        stored=lambda i, o: (i // 2, 2, o),
        axes=(0, 1),
        run=lambda x, w: x @ w.reshape(-1, w.shape[-1]),
        matrix=lambda w: w.reshape(-1, w.shape[-1]),
    ),
    "reversed": Form(
        stored=_plain, axes=(0,), run=lambda x, w: x @ w[:, ::-1], matrix=lambda w: w[:, ::-1]
    ),
}


def odd_dense(shape: Shape, width: int, form: str) -> Made:
    """A product whose weight is laid out otherwise than it is multiplied."""
    way = _FORMS[form]
    inputs = shape[-1]
    return Made(
        kind=f"{form} dense {width}",
        out=(*shape[:-1], width),
        weights=("w",),
        naive=lambda ref, prefix, x: ref.product(
            f"{prefix}/w", x, way.axes, lambda x, w: x @ way.matrix(w)
        ),
        init=lambda key: {"w": normal(key, way.stored(inputs, width), inputs)},
        apply=lambda p, x: way.run(x, p["w"]),
    )


FORMS = tuple(_FORMS)


def residual(shape: Shape) -> Made:
    """A dense layer around which its input goes as well."""
    return _around(
        shape,
        "residual dense",
        run=lambda layer, x: x + layer(x),
        naive=lambda ref, layer, x: ref.cast(ref.cast(x) + layer(x)),
    )


def twice(shape: Shape) -> Made:
    """One dense layer that is used twice, with a rectifier between."""
    return _around(
        shape,
        "dense used twice",
        run=lambda layer, x: layer(jax.nn.relu(layer(x))),
        naive=lambda ref, layer, x: layer(np.maximum(layer(x), 0)),
    )


def _around(
    shape: Shape, kind: str, run: Run, naive: Callable[[Reference, Any, Array], Array]
) -> Made:
    """A dense layer inside a module of its own.

    Args:
        shape: before and after it.
        kind: in words.
        run: (layer, x) -> x.
        naive: (reference, layer, x) -> x, in NumPy.
    """
    inner = plain_dense(shape, shape[-1])
    init, apply = inner.init, inner.apply
    assert init is not None
    assert apply is not None
    return Made(
        kind=kind,
        out=shape,
        weights=("inner/kernel",),
        naive=lambda ref, prefix, x: naive(
            ref, lambda x: inner.naive(ref, f"{prefix}/inner", x), x
        ),
        nnx=in_nnx("inner", inner.nnx, run),
        linen=in_linen("inner", inner.linen, run),
        init=lambda key: {"inner": init(key)},
        apply=lambda p, x: run(lambda x: apply(p["inner"], x), x),
    )


def stack(shape: Shape, way: str) -> Made:
    """Three dense layers whose kernels lie in one array; by a scan, or one after another."""
    width, depth = shape[-1], 3

    def apply(p: Params, x: jax.Array) -> jax.Array:
        if way == "scanned":
            return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, p["w"])[0]
        for i in range(depth):
            x = jnp.tanh(x @ p["w"][i])
        return x

    def naive(ref: Reference, prefix: str, x: Array) -> Array:
        for i in range(depth):
            x = np.tanh(ref.product(f"{prefix}/w", x, (0,), dense, at=i, scanned=way == "scanned"))
        return x

    return Made(
        kind=f"{way} stack",
        out=shape,
        weights=("w",),
        naive=naive,
        init=lambda key: {"w": normal(key, (depth, width, width), width)},
        apply=apply,
    )


def gates(shape: Shape, width: int) -> Made:
    """Two kernels that are joined for one product, whose result is split into value and gate."""
    inputs = shape[-1]

    def apply(p: Params, x: jax.Array) -> jax.Array:
        both = x @ jnp.concatenate([p["value"], p["gate"]], axis=1)
        value, gate = jnp.split(both, 2, axis=-1)
        return value * jax.nn.sigmoid(gate)

    def naive(ref: Reference, prefix: str, x: Array) -> Array:
        value, gate = (ref.product(f"{prefix}/{n}", x, (0,), dense) for n in ("value", "gate"))
        return value * sigmoid(gate)

    def init(key: jax.Array) -> Params:
        one, other = jax.random.split(key)
        return {
            "value": normal(one, (inputs, width), inputs),
            "gate": normal(other, (inputs, width), inputs),
        }

    return Made(
        kind=f"joined gates {width}",
        out=(*shape[:-1], width),
        weights=("value", "gate"),
        naive=naive,
        init=init,
        apply=apply,
    )


@jax.custom_vjp
def _bounded(x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.clip(x, -1.0, 1.0) @ w


def _forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _bounded(x, w), (x, w)


def _backward(held: tuple[jax.Array, jax.Array], change: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w = held
    flat = x.reshape(-1, x.shape[-1]), change.reshape(-1, change.shape[-1])
    return 0.5 * change @ w.T, flat[0].T @ flat[1]


_bounded.defvjp(_forward, _backward)


def own_derivative(shape: Shape, width: int) -> Made:
    """A product with a derivative of the user's own."""
    inputs = shape[-1]
    return Made(
        kind=f"dense {width} with a derivative of its own",
        out=(*shape[:-1], width),
        weights=("w",),
        naive=lambda ref, prefix, x: ref.product(f"{prefix}/w", np.clip(x, -1, 1), (0,), dense),
        init=lambda key: {"w": normal(key, (inputs, width), inputs)},
        apply=lambda p, x: _bounded(x, p["w"]),
    )
