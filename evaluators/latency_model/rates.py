"""What this machine's processor reaches: rates of arithmetic, and bandwidths of its memories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from paretax.evaluators.compilers.hlo import kernels_of
from paretax.evaluators.compilers.hlo_text import parse_module
from paretax.evaluators.latency_model.tracing import kernel_seconds

_DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16, "fp16": jnp.float16, "int8": jnp.int8}
_SIDES = (256, 512, 1024)
_STEPS = 64  # multiplications and additions of an element
_MOST = 2**28  # bytes of an array that is read and written


def peak_rates() -> dict[str, float]:
    """Operations a second of products of square matrices, by dtype: the best of three sizes."""
    return {dtype: max(_product_rate(given, n) for n in _SIDES) for dtype, given in _DTYPES.items()}


def vector_rate() -> float:
    """Elementwise float32 operations a second, on data in the nearest cache."""
    count = 2048

    def chain(x: jax.Array) -> jax.Array:
        for _ in range(_STEPS):
            x = x * 1.0001 + 0.5
        return x

    return 2 * _STEPS * count / _busiest(chain, jnp.ones(count))


def bandwidths(sizes: Sequence[int]) -> list[float]:
    """Bytes a second, read and written, of working sets of half of each size.

    Args:
        sizes: bytes of the memories, from the nearest on.
    """
    found = []
    for size in sizes:
        count = min(size // 2, _MOST) // 8  # float32 values, each read and written
        array = jnp.ones(max(count, 256))
        found.append(2 * array.nbytes / _busiest(lambda x: x + 1.0, array))
    return found


def _product_rate(dtype: Any, side: int) -> float:
    kind = jnp.int32 if dtype == jnp.int8 else None
    left = jnp.ones((side, side), dtype)

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a, b, preferred_element_type=kind)

    return 2 * side**3 / _busiest(product, left, left)


def _busiest(function: Callable[..., jax.Array], *args: jax.Array) -> float:
    """Seconds of all kernels of a program, without its call."""
    compiled = jax.jit(function).lower(*args).compile()
    kernels = kernels_of(parse_module(str(compiled.as_text())))
    times = kernel_seconds(lambda: compiled(*args), [k.name for k in kernels], 20)
    return sum(times.values())
