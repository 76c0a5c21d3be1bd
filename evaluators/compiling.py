"""How programs that train and score are compiled: fast, and kept on disk for all workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

_FAST_CPU = {"xla_cpu_use_fusion_emitters": False}
"""XLA's older way to make loops: it compiles a training step in about two thirds of the time."""


def compile_fast(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit` for a program that runs for about as long as it compiles.

    Not for programs whose latency is measured: those are compiled as XLA likes.

    Args:
        function: what to compile.
        options: of `jax.jit`.
    """
    on_cpu = jax.default_backend() == "cpu"
    return jax.jit(function, compiler_options=_FAST_CPU if on_cpu else None, **options)
