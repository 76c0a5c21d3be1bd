"""Derivatives that a user wrote (`custom_jvp`, `custom_vjp`, `custom_gradient`, `linear_call`).

A traced program holds them as Python functions, which its text does not show. Here they are traced,
so that they can be seen and compared.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from paretax.spaces.jax_compat import bind

_CUSTOM = frozenset({"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "linear_call"})
_PRIMAL = ("call_jaxpr", "fun_jaxpr", "callee")
_LEADING = (("num_consts",), ("num_callee_consts", "num_res"))
"""Names of counts of leading operands that nothing is differentiated by."""


def is_custom(eqn: JaxprEqn) -> bool:
    """Whether an equation has a derivative of its own."""
    return eqn.primitive.name in _CUSTOM


def primal_of(eqn: JaxprEqn) -> ClosedJaxpr:
    """What such an equation computes."""
    found: ClosedJaxpr = next(eqn.params[name] for name in _PRIMAL if name in eqn.params)
    return found


def traced_rule(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """The traced derivative of an equation that has its own, as training takes it.

    Returns:
        (operands, cotangents of the floating-point results) -> cotangents of the floating-point
        operands. None where it cannot be seen: it refuses to be traced apart from the model, or it
        asks which operands are differentiated (`symbolic_zeros`), so that one trace is not all.
    """
    return None if eqn.params.get("symbolic_zeros") else _traced(eqn)


def untraceable(program: ClosedJaxpr | Jaxpr) -> str | None:
    """The name of a function whose own derivative cannot be traced apart from the model.

    It uses what is computed around it, without being given it. None where there is none.
    """
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    for eqn in jaxpr.eqns:
        if is_custom(eqn):
            if _traced(eqn) is None:
                return str(primal_of(eqn).jaxpr.debug_info.func_name)
            continue
        for value in eqn.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                found = untraceable(part) if isinstance(part, ClosedJaxpr | Jaxpr) else None
                if found is not None:
                    return found
    return None


def _traced(eqn: JaxprEqn) -> ClosedJaxpr | None:
    fixed = sum(eqn.params.get(name, 0) for names in _LEADING for name in names)
    operands = [_shape(var.aval) for var in eqn.invars]
    results = [_shape(var.aval) for var in eqn.outvars]
    given = [result for result in results if _is_real(result)]

    def pulled(operands: list[Any], given: list[Any]) -> list[Any]:
        _, pull = jax.vjp(lambda *rest: bind(eqn, [*operands[:fixed], *rest]), *operands[fixed:])
        left = iter(given)
        cotangents = [
            next(left) if _is_real(r) else np.zeros(r.shape, jax.dtypes.float0) for r in results
        ]
        return [c for c, o in zip(pull(cotangents), operands[fixed:], strict=True) if _is_real(o)]

    try:
        closed = jax.make_jaxpr(pulled)(operands, given)
    except Exception:  # noqa: BLE001  a user's rule may refuse in any way
        return None
    # A value from around it, of a trace that has ended, is taken for an array.
    left = any(isinstance(held, jax.core.Tracer) for held in closed.consts)
    return None if left else closed


def _shape(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)


def _is_real(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.inexact))
