"""The value and the slopes of an elementwise operation where its operands are known numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn


@dataclass(frozen=True, kw_only=True)
class Point:
    """An operation at known operands.

    Args:
        value: of the result; may be infinite or NaN.
        slopes: derivatives of the result by the operands that were asked for; may be infinite or
            NaN.
    """

    value: float
    slopes: tuple[float, ...]

    @property
    def is_finite(self) -> bool:
        """Whether the value is a number."""
        return bool(np.isfinite(self.value))

    @property
    def is_smooth(self) -> bool:
        """Whether all slopes are numbers."""
        return bool(np.isfinite(self.slopes).all())


def point(eqn: JaxprEqn, operands: Sequence[float], by: Sequence[int]) -> Point | None:
    """Compute an elementwise operation, and its derivatives as JAX takes them, at one place.

    Args:
        eqn: of the operation, with one result.
        operands: their values.
        by: operands whose slopes are wanted; those that are no real numbers have none.

    Returns:
        None for complex numbers.
    """
    dtypes = [var.aval.dtype for var in (*eqn.invars, *eqn.outvars)]  # type: ignore[attr-defined]
    if any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes):
        return None
    # Without leaving it to a trace that may be around.
    with jax.ensure_compile_time_eval():
        given = [jnp.asarray(x, dtype) for x, dtype in zip(operands, dtypes, strict=False)]
        value = float(_run(eqn, given))
        real = all(jnp.issubdtype(dtypes[i], jnp.floating) for i in (*by, -1))
        return Point(value=value, slopes=tuple(_slopes(eqn, given, by)) if real else ())


def _slopes(eqn: JaxprEqn, given: Sequence[jax.Array], by: Sequence[int]) -> Iterator[float]:
    for i in by:

        def along(x: jax.Array, i: int = i) -> Any:
            return _run(eqn, [*given[:i], x, *given[i + 1 :]])

        yield float(jax.grad(along)(given[i]))


def _run(eqn: JaxprEqn, given: Sequence[jax.Array]) -> Any:
    return eqn.primitive.bind(*given, **eqn.params)
