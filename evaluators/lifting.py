"""A model's own numbers (dropout, an initial scale) as inputs of its programs, not parts of them.

A model is built from plain Python numbers, which JAX writes into the graph that it traces. Where
two values of such a number give graphs that differ in constants alone, those constants are lifted
out: one compiled program then serves all values. Nothing is assumed of how the model uses the
number; a value that changes the graph (a dropout of 0, which leaves it out) gives another program.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from jax.extend.core import Literal as Constant

from paretax.evaluators.graph import describe_without_numbers, is_number, outline
from paretax.spaces.derivatives import is_custom
from paretax.spaces.jax_compat import bind, scan_counts
from paretax.spaces.sites import called_jaxpr

Path = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Lifted:
    """A function whose varying constants are its first argument.

    Args:
        fingerprint: of its graph; equal ones are one program.
        numbers: the constants of this instance.
        run: (numbers, *args) -> the function's outputs.
    """

    fingerprint: str
    numbers: tuple[np.ndarray, ...]
    run: Callable[..., Any]


def lift(
    function: Callable[..., Any], other: Callable[..., Any] | None, *shapes: Any
) -> Lifted | None:
    """Lift out the constants by which a function differs from another instance of itself.

    Constants within something that has a derivative of its own (`custom_vjp`) stay there, and are
    part of the fingerprint.

    Args:
        function: (*args) -> outputs.
        other: the same, made from other numbers; None lifts nothing.
        shapes: of the arguments; the batch may be of another size later.

    Returns:
        None where the two differ in more than constants, where the other one cannot be traced,
        where a constant is inside a loop or branch of a kind that cannot be written out, or where
        the function does what cannot be seen (a callback), so that no fingerprint is safe.
    """
    closed, results = jax.make_jaxpr(function, return_shape=True)(*shapes)
    described = describe_without_numbers(closed)
    if described.unseen:
        return None
    constants = dict(_constants(closed.jaxpr, ()))
    varying: list[Path] = []
    if other is not None:
        try:
            twin = jax.make_jaxpr(other)(*shapes)
        except Exception:  # noqa: BLE001  a model may refuse its other numbers in any way
            return None
        twins = dict(_constants(twin.jaxpr, ()))
        if outline(closed) != outline(twin) or constants.keys() != twins.keys():
            return None
        varying = [p for p, c in constants.items() if not _equal(c.val, twins[p].val)]
    if not all(_can_be_written_out(path) for path in varying):
        return None
    rest = [f"{p} {_bytes(c)}" for p, c in constants.items() if p not in set(varying)]
    trees = jax.tree.structure(shapes), jax.tree.structure(results)
    about = "\n".join([described.words, *rest, *map(str, (*varying, *trees))])

    def run(numbers: Sequence[jax.Array], *args: Any) -> Any:
        """For a batch of any size: the constants keep their places in the graph."""
        given = dict(zip(varying, numbers, strict=True))
        here, outputs = jax.make_jaxpr(function, return_shape=True)(*args)
        if dict(_constants(here.jaxpr, ())).keys() != constants.keys():
            raise TypeError("the graph is another for these arguments, which are of another type")
        leaves = _evaluate(here.jaxpr, here.consts, jax.tree.leaves(args), given, ())
        return jax.tree.unflatten(jax.tree.structure(outputs), leaves)

    return Lifted(
        fingerprint=hashlib.sha256(about.encode()).hexdigest()[:24],
        numbers=tuple(np.asarray(constants[p].val, _dtype(constants[p])) for p in varying),
        run=run,
    )


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other or (one != one and other != other))


def _bytes(constant: Constant) -> str:
    return np.asarray(constant.val, _dtype(constant)).tobytes().hex()


def _inner(eqn: JaxprEqn) -> list[tuple[str, ClosedJaxpr | Jaxpr]]:
    """The functions that an equation holds, each with the way in which it is called.

    What has a derivative of its own is a whole, which nothing is taken out of.
    """
    if is_custom(eqn):
        return []
    called = called_jaxpr(eqn)
    if called is not None:
        return [("call", called)]
    if eqn.primitive.name == "scan":
        return [("scan", eqn.params["jaxpr"])]
    found = []
    for name, value in sorted(eqn.params.items()):
        for i, part in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(part, ClosedJaxpr | Jaxpr):
                found.append((f"{name} {i}", part))
    return found


def _constants(jaxpr: Jaxpr, path: Path) -> Iterator[tuple[Path, Constant]]:
    """The scalar floating-point constants of a function and of all within it, in order."""
    for i, eqn in enumerate(jaxpr.eqns):
        for j, var in enumerate(eqn.invars):
            if is_number(var):
                yield (*path, i, j), var
        for way, inner in _inner(eqn):
            body = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
            yield from _constants(body, (*path, i, way))


def _dtype(constant: Constant) -> np.dtype[Any]:
    aval: Any = constant.aval
    dtype: np.dtype[Any] = np.dtype(aval.dtype)
    return dtype


def _can_be_written_out(path: Path) -> bool:
    return all(part in ("call", "scan") for part in path if isinstance(part, str))


def _evaluate(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    args: Sequence[Any],
    given: Mapping[Path, jax.Array],
    path: Path,
) -> list[Any]:
    """The outputs of a function with some of its constants given."""
    values: dict[Var, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(var: Any) -> Any:
        return var.val if isinstance(var, Constant) else values[var]

    for i, eqn in enumerate(jaxpr.eqns):
        here = (*path, i)
        operands = [
            given[(*here, j)] if (*here, j) in given else read(var)
            for j, var in enumerate(eqn.invars)
        ]
        ways = {p[len(here)] for p in given if p[: len(here)] == here and len(p) > len(here) + 1}
        if not ways:
            results = bind(eqn, operands)
        elif ways == {"call"}:
            called = called_jaxpr(eqn)
            assert called is not None
            results = _evaluate(called.jaxpr, called.consts, operands, given, (*here, "call"))
        else:
            results = _scan(eqn, operands, given, (*here, "scan"))
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _scan(
    eqn: JaxprEqn, operands: Sequence[Any], given: Mapping[Path, jax.Array], path: Path
) -> list[Any]:
    closed, params = eqn.params["jaxpr"], eqn.params
    first, carried = scan_counts(eqn)

    def body(carry: list[Any], sliced: list[Any]) -> tuple[list[Any], list[Any]]:
        args = [*operands[:first], *carry, *sliced]
        outputs = _evaluate(closed.jaxpr, closed.consts, args, given, path)
        return outputs[:carried], outputs[carried:]

    carry, stacked = jax.lax.scan(
        body,
        list(operands[first : first + carried]),
        list(operands[first + carried :]),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*carry, *stacked]
