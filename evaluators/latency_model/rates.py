"""What this machine's processor reaches: rates of arithmetic, and bandwidths of its memories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from paretax.evaluators.compilers.hlo import kernels_of
from paretax.evaluators.compilers.hlo_text import parse_module
from paretax.evaluators.latency_model.tracing import kernel_seconds
from paretax.evaluators.timing import time_calls

_DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16, "fp16": jnp.float16, "int8": jnp.int8}
_SIDES = (256, 512, 1024)
_STEPS = 64  # multiplications and additions of an element
_MOST = 2**28  # bytes of an array that is read and written
_CALLS = 30
_ARGUMENTS = 65


def peak_rates() -> dict[str, float]:
    """Operations a second of products of square matrices, by dtype: the best of three sizes."""
    return {dtype: max(_product_rate(given, n) for n in _SIDES) for dtype, given in _DTYPES.items()}


def vector_rate() -> float:
    """Elementwise float32 operations a second, on data in the nearest cache."""

    def chain(x: jax.Array) -> jax.Array:
        for _ in range(_STEPS):
            x = x * 1.0001 + 0.5
        return x

    few, many = (_in_place(chain, count) for count in (512, 4096))
    return 2 * _STEPS * (4096 - 512) / max(many - few, 1e-12)


def bandwidths(sizes: Sequence[int]) -> list[float]:
    """Bytes a second, read and written, of working sets that a memory holds and no nearer one.

    Args:
        sizes: bytes of the memories, from the nearest on.
    """
    found = []
    for size in sizes:
        most = min(size // 2, _MOST)
        few, many = (max(part // 4, 64) for part in (most // 2, most))
        # By the difference of two sizes: starting a kernel is no part of it.
        taken = _in_place(lambda x: x + 1.0, many) - _in_place(lambda x: x + 1.0, few)
        found.append(8 * (many - few) / max(taken, 1e-12))
    for nearer in range(len(found) - 2, -1, -1):
        # A difference of tenths of a microsecond may be lost in noise, so it is kept plausible.
        found[nearer] = min(max(found[nearer], found[nearer + 1]), 4 * found[nearer + 1])
    return found


def argument_seconds() -> float:
    """Of each array that a call passes, which no kernel needs to read."""
    seconds = []
    x = jnp.ones(8)
    for count in (1, _ARGUMENTS):
        arrays = {f"w{i:02d}": jnp.ones(8) for i in range(count)}
        jitted = jax.jit(lambda arrays, x: x + 1.0, keep_unused=True)
        compiled = jitted.lower(arrays, x).compile()
        seconds.append(time_calls(partial(compiled, arrays, x)).median)
    return max(0.0, (seconds[1] - seconds[0]) / (_ARGUMENTS - 1))


def _product_rate(dtype: Any, side: int) -> float:
    kind = jnp.int32 if dtype == jnp.int8 else None
    left = jnp.ones((side, side), dtype)

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a, b, preferred_element_type=kind)

    compiled = jax.jit(product).lower(left, left).compile()
    return 2 * side**3 / _kernels(compiled, lambda: compiled(left, left))


def _in_place(function: Callable[[jax.Array], jax.Array], count: int) -> float:
    """Seconds of an elementwise function of so many float32 values, written over its input."""
    array = jnp.ones(count)
    compiled = jax.jit(function, donate_argnums=0).lower(array).compile()

    def call() -> Any:
        nonlocal array
        array = compiled(array)
        return array

    return _kernels(compiled, call)


def _kernels(compiled: Any, call: Callable[[], Any]) -> float:
    """Seconds of all kernels of a program, without its call."""
    kernels = kernels_of(parse_module(str(compiled.as_text())))
    return sum(kernel_seconds(call, [k.name for k in kernels], _CALLS).values())
