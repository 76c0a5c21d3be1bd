"""What JAX 0.10.2 to 0.12 write in different ways: the only place that reads it.

Each difference is told by what is there, not by a version's number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
from jax.export import Exported
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.extend.mlir.dialects import stablehlo

Release = tuple[int, int, int]
_WRITTEN = re.compile(rb"ML\xefR.StableHLO_v(\d+\.\d+\.\d+)\0", re.DOTALL)


def scan_counts(eqn: JaxprEqn) -> tuple[int, int]:
    """How many of a scan's first operands are constants, and how many after them are carried."""
    if "ft_in" in eqn.params:  # a tree (constants, carried, sliced), from JAX 0.11
        constants, carried, _ = (len(part) for part in eqn.params["ft_in"].unpack())
        return constants, carried
    return int(eqn.params["num_consts"]), int(eqn.params["num_carry"])


def closed_jaxpr(jaxpr: ClosedJaxpr | Jaxpr) -> ClosedJaxpr:
    """A graph with the constants that it holds; from JAX 0.12 every graph is one of these."""
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, [])


def bind(eqn: JaxprEqn, operands: Sequence[Any], **changed: Any) -> list[Any]:
    """The results of an equation for other operands.

    Args:
        eqn: of a traced graph.
        operands: arrays or tracers, as many as the equation has.
        changed: those of its parameters that are other ones.
    """
    params = {**eqn.primitive.get_bind_params(eqn.params), **changed}
    with eqn.ctx.manager:
        made = eqn.primitive.bind(*operands, **params)
    return list(made) if eqn.primitive.multiple_results else [made]


@cache
def xla_takes(option: str, value: Any) -> bool:
    """Whether XLA of this release knows an option for the default device."""
    number = jax.ShapeDtypeStruct((), "float32")
    try:
        jax.jit(lambda x: x, compiler_options={option: value}).lower(number).compile()
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" in str(error):
            return False
        raise
    return True


def stablehlo_of(program: Exported) -> Release:
    """The release of StableHLO that an exported program is written in."""
    found = _WRITTEN.match(program.mlir_module_serialized)
    if found is None:
        raise ValueError("it does not begin with the release of StableHLO that it is written in")
    return _release(found.group(1).decode())


def newest_stablehlo() -> Release:
    """The newest release of StableHLO that JAX here reads."""
    return _release(stablehlo.get_current_version())


def _release(text: str) -> Release:
    major, minor, patch = map(int, text.split("."))
    return major, minor, patch
