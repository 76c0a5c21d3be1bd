"""A program before any compiler saw it, in a form that other processes can read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax

from paretax.evaluators.compilers.traced import TracedProduct, traced_products
from paretax.evaluators.graph import graph_key

PLATFORMS = ("cpu", "tpu", "cuda")
"""That a program is lowered for at once, so that all targets share one tracing and one hash."""


@dataclass(frozen=True)
class PortableProgram:
    """A function with the shapes of its arguments.

    Args:
        function: jitted.
        args: arrays or shapes of its arguments.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]

    @cached_property
    def _traced(self) -> Any:
        return jax.jit(self.function).trace(*self.args)

    @cached_property
    def graph(self) -> str | None:
        """See `graph_key`: found in a fraction of the time that `fingerprint` takes."""
        return graph_key(self._traced.jaxpr, derivatives=False)

    @cached_property
    def products(self) -> tuple[TracedProduct, ...]:
        """What it multiplies."""
        return tuple(traced_products(self._traced.jaxpr.jaxpr))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of its StableHLO; equal graphs have equal ones."""
        text = self._traced.lower(lowering_platforms=PLATFORMS).as_text()
        text = re.sub(r"module @\S+", "module", text, count=1)  # the function's name
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @cached_property
    def exported(self) -> bytes:
        """The program for XLA's compilers, as `jax.export` writes it."""
        return bytes(self._export(PLATFORMS).serialize())

    @cached_property
    def stablehlo(self) -> str:
        """The program as StableHLO text."""
        return str(self._export(("cpu",)).mlir_module())

    def _export(self, platforms: tuple[str, ...]) -> Any:
        return jax.export.export(jax.jit(self.function), platforms=platforms)(*self.args)
