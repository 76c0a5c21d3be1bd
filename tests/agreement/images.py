"""Convolutions."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
from flax import nnx
from tests.agreement.made import Made, Params, Shape, biased, normal
from tests.agreement.reference import Array, Reference, convolution, transposed_convolution


def plain_convolution(shape: Shape, width: int, stride: int, dilation: int, groups: int) -> Made:
    """A convolution of 3 x 3 with a bias."""
    channels = shape[-1]
    taps = (3, 3, channels // groups, width)
    settings: dict[str, Any] = {
        "kernel_size": (3, 3),
        "strides": stride,
        "kernel_dilation": dilation,
        "feature_group_count": groups,
    }

    def naive(ref: Reference, prefix: str, x: Array) -> Array:
        def run(x: Array, w: Array) -> Array:
            return convolution(x, w, stride=stride, dilation=dilation, groups=w_groups(x, w))

        y = ref.product(f"{prefix}/kernel", x, (0, 1, 2), run, grouped=groups > 1, convolution=True)
        return biased(ref, prefix, y)

    def w_groups(x: Array, w: Array) -> int:
        return x.shape[-1] // w.shape[2]  # channels that were removed take their groups along

    def apply(p: Params, x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            x,
            p["kernel"],
            (stride, stride),
            "SAME",
            rhs_dilation=(dilation, dilation),
            feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + p["bias"]

    side = (-(-shape[0] // stride), -(-shape[1] // stride))
    return Made(
        kind=f"convolution {width}, stride {stride}, dilation {dilation}, {groups} groups",
        out=(*side, width),
        weights=("kernel",),
        naive=naive,
        nnx=lambda rngs, **types: nnx.Conv(channels, width, rngs=rngs, **settings, **types),
        linen=lambda name, **types: linen.Conv(width, name=name, **settings, **types),
        init=lambda key: {
            "kernel": normal(key, taps, math.prod(taps[:3])),
            "bias": jnp.zeros(width),
        },
        apply=apply,
    )


def outputs_first(shape: Shape, width: int) -> Made:
    """A convolution whose kernel has its outputs first, as PyTorch holds it."""
    channels = shape[-1]

    def naive(ref: Reference, prefix: str, x: Array) -> Array:
        run = lambda x, w: convolution(x, w.transpose(2, 3, 1, 0))  # noqa: E731
        return ref.product(f"{prefix}/w", x, (2, 3, 1), run, convolution=True)

    return Made(
        kind=f"convolution {width} with outputs first",
        out=(*shape[:2], width),
        weights=("w",),
        naive=naive,
        init=lambda key: {"w": normal(key, (width, channels, 3, 3), 9 * channels)},
        apply=lambda p, x: jax.lax.conv_general_dilated(
            x, p["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "OIHW", "NHWC")
        ),
    )


def upward(shape: Shape, width: int, turned: bool) -> Made:
    """A transposed convolution of stride 2; `turned`: by the kernel of the way back."""
    channels = shape[-1]
    settings: dict[str, Any] = {
        "kernel_size": (3, 3),
        "strides": (2, 2),
        "transpose_kernel": turned,
    }

    def run(x: Array, w: Array) -> Array:
        if turned:  # (h, w, out, in): mirrored, and the last two exchanged
            w = w[::-1, ::-1].swapaxes(2, 3)
        return transposed_convolution(x, w, 2)

    def naive(ref: Reference, prefix: str, x: Array) -> Array:
        axes = (0, 1, 3) if turned else (0, 1, 2)
        y = ref.product(f"{prefix}/kernel", x, axes, run, convolution=True)
        return biased(ref, prefix, y)

    return Made(
        kind=f"transposed convolution {width}" + (", turned kernel" if turned else ""),
        out=(2 * shape[0], 2 * shape[1], width),
        weights=("kernel",),
        naive=naive,
        nnx=lambda rngs, **types: nnx.ConvTranspose(
            channels, width, rngs=rngs, **settings, **types
        ),
        linen=lambda name, **types: linen.ConvTranspose(width, name=name, **settings, **types),
    )
