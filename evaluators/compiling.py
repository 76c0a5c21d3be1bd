"""How programs that train and score are compiled: fast, and kept on disk for all workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax

from paretax.spaces.jax_compat import xla_takes

_FAST_CPU = {"xla_cpu_use_fusion_emitters": False}
"""XLA's older way to make loops: it compiles a training step in about two thirds of the time.

JAX 0.11 and newer are without it.
"""


def compile_fast(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit` for a program that runs for about as long as it compiles.

    Not for programs whose latency is measured: those are compiled as XLA likes.

    Args:
        function: what to compile.
        options: of `jax.jit`.
    """
    on_cpu = jax.default_backend() == "cpu"
    known = {k: v for k, v in _FAST_CPU.items() if on_cpu and xla_takes(k, v)}
    return jax.jit(function, compiler_options=known or None, **options)


_STAGES = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


class CompileClock:
    """Seconds that JAX spends on tracing, lowering and compiling in this process, from now on."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._last: list[tuple[float, float]] = []  # of stages: their beginning and their seconds
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event not in _STAGES:
            return
        begin = time.perf_counter() - duration_secs
        while self._last and self._last[-1][0] >= begin:  # a trace within this one
            self._seconds -= self._last.pop()[1]
        self._last = [*self._last[-50:], (begin, duration_secs)]
        self._seconds += duration_secs

    @property
    def seconds(self) -> float:
        """So far."""
        return self._seconds
