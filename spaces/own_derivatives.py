"""Derivatives that a user wrote, kept where a program is run again with other products."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from paretax.spaces.jax_compat import bind
from paretax.spaces.views import Held, Joined, View

Read = Callable[[Any], jax.Array]
"""(what was passed under a weight's name) -> an array of the weight's shape"""


@dataclass(frozen=True, kw_only=True)
class OwnDerivatives:
    """What keeps the derivative of a call that has its own (`custom_vjp`), with weights within.

    The value is that of the replaced products; the derivative is the user's, at the weights that
    the products multiply.

    Args:
        weight: the weight that products multiply.
        read: the weight as it was passed.
        write: (what was passed, another weight) -> the same with that weight.
        seen: gets the names of the weights that are multiplied within such a call.
    """

    weight: Read
    read: Read
    write: Callable[[Any, jax.Array], Any]
    seen: set[str] = field(default_factory=set)

    def kept(
        self,
        eqn: JaxprEqn,
        given: Sequence[Any],
        results: Sequence[Any],
        multiplied: Iterable[str],
    ) -> list[Any]:
        """The results of such a call, differentiated by its own rule.

        Args:
            eqn: the call.
            given: its operands; some are views of weights.
            results: with the products replaced; some may be views of weights that are handed on.
            multiplied: the weights of the products within.
        """
        self.seen.update(multiplied)
        own = self._differentiated(eqn, given, self.weight)
        through = self._differentiated(eqn, given, self.read)
        return [
            self._written(value, through[i])
            if isinstance(value, View | Joined)
            else _valued(own[i], value)
            for i, value in enumerate(results)
        ]

    def _differentiated(self, eqn: JaxprEqn, given: Sequence[Any], read: Read) -> list[Any]:
        operands = []
        for value, var in zip(given, eqn.invars, strict=True):
            if isinstance(value, View | Joined):
                aval: Any = var.aval
                operands.append(_array(value, read).astype(aval.dtype))
            else:
                operands.append(value)
        return bind(eqn, operands)

    def _written(self, held: Held, array: jax.Array) -> Held:
        """What is handed on, with the derivative of an array that it is equal to."""
        if isinstance(held, Joined):
            parts, start = [], 0
            for part in held.parts:
                end = start + part.shape[held.axis]
                piece = jax.lax.slice_in_dim(array, start, end, axis=held.axis)
                parts.append(self._written(part, piece))
                start = end
            return Joined(axis=held.axis, parts=tuple(parts))
        if held.name is None:
            return replace(held, operand=_valued(array, held.operand))
        weight = self.read(held.operand)
        share = _factor(held, weight.dtype)
        moved = jnp.where(share == 0, 0, array.astype(weight.dtype) / share)
        written = self.write(held.operand, _valued(moved, weight))
        return replace(held, operand=written, factors=_still(held))


def _array(held: Held, read: Read) -> jax.Array:
    """The values of a view."""
    if isinstance(held, Joined):
        return jnp.concatenate([_array(part, read) for part in held.parts], axis=held.axis)
    if held.name is None:
        return jnp.asarray(held.operand)
    return functools.reduce(lambda a, factor: factor(a), held.factors, read(held.operand))


def _factor(view: View, dtype: Any) -> jax.Array:
    """All factors of a view in one number, which nothing is differentiated by."""
    one = jnp.ones((), dtype)
    return jax.lax.stop_gradient(functools.reduce(lambda a, factor: factor(a), view.factors, one))


def _still(view: View) -> tuple[Callable[[jax.Array], jax.Array], ...]:
    """The factors of a view, which are not differentiated by: the user's rule says how."""

    def factor(array: jax.Array) -> jax.Array:
        value = functools.reduce(lambda a, factor: factor(a), view.factors, array)
        return _valued(array * _factor(view, array.dtype), value)

    return (factor,) if view.factors else ()


@jax.custom_jvp
def _valued(differentiated: jax.Array, value: jax.Array) -> jax.Array:
    """A value, with the derivative of another."""
    return value


@_valued.defjvp
def _(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[Any, Any]:
    return primals[1], tangents[0]
