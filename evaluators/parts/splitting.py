"""A program cut into parts, each around one product of matrices or convolution.

A part starts at a product and ends before the next one, so that an activation, a normalisation or
the rounding to integers stays with the product that it follows, as compilers fuse them. What
depends on weights alone (a cast, a scale) goes with the product that uses it. Equal parts of
different programs are equal text, so each is compiled once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Var
from jax.extend.core import Literal as Constant

from paretax.spaces.sites import called_jaxpr

START = "start"
"""The slot of what comes before the first product."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_PRODUCTS = ("dot_general", "conv_general_dilated")


@dataclass(frozen=True)
class Part:
    """A piece of a program.

    Args:
        slot: the weight that its product takes, or its place after one; the same slot in programs
            of one space is the same place in the model.
        text: equal texts, equal pieces.
        function: of `shapes`; it gives what later parts and the caller use.
        shapes: of what it takes.
    """

    slot: str
    text: str
    function: Callable[..., Any]
    shapes: tuple[jax.ShapeDtypeStruct, ...]


@dataclass
class _Piece:
    """The equations of a part under construction."""

    slot: str
    eqns: list[JaxprEqn]


def split(function: Callable[..., Any], arrays: Mapping[str, Any], inputs: Any) -> list[Part]:
    """The parts of a deployed program, in the order in which it computes them.

    Args:
        function: (arrays, inputs) -> outputs.
        arrays: shapes of its weights, by name.
        inputs: shape of a batch.
    """
    closed = jax.make_jaxpr(function)(dict(arrays), inputs)
    names: dict[Var, str] = dict(zip(closed.jaxpr.invars, sorted(arrays), strict=False))
    fed = set(closed.jaxpr.invars[len(arrays) :])  # what depends on the inputs
    constants: dict[Var, Any] = {}
    eqns, outputs = _flat(closed, list(closed.jaxpr.invars), constants)
    makers = {var: eqn for eqn in eqns for var in eqn.outvars}
    pieces = [_Piece(START, [])]
    taken: set[int] = set()
    after = 0
    for eqn in eqns:
        if not any(var in fed for var in _variables(eqn)):
            continue  # of weights alone: it goes with who uses it
        fed.update(eqn.outvars)
        needed = list(_needed(eqn, makers, fed, taken))
        if _multiplies(eqn):
            weights = [names[v] for e in needed for v in _variables(e) if v in names]
            after = 0 if weights else after + 1
            before = pieces[-1].slot.partition("+")[0].partition("#")[0]
            slot = weights[0] if weights else f"{before}+{after}"
            again = sum(piece.slot.partition("#")[0] == slot for piece in pieces)
            pieces.append(_Piece(f"{slot}#{again + 1}" if again else slot, []))
        pieces[-1].eqns += needed
    alone = [e for e in eqns if id(e) not in taken]
    used = {v for p in pieces for e in p.eqns for v in e.outvars}
    results = {v for v in outputs if not isinstance(v, Constant)}
    if any(v not in used for v in results if v in makers):
        pieces[-1].eqns += alone  # outputs that no input reaches
    return [part for part in _parts(pieces, results, constants) if part.shapes]


def _flat(
    closed: ClosedJaxpr, given: Sequence[Any], constants: dict[Var, Any]
) -> tuple[list[JaxprEqn], list[Any]]:
    """The equations of a program, those of calls with products in them in their place.

    Args:
        closed: the program.
        given: what stands for its inputs.
        constants: is told the arrays that it closes over.

    Returns:
        Equations with variables of their own, as one program may be called twice; the outputs.
    """
    known: dict[Var, Any] = dict(zip(closed.jaxpr.invars, given, strict=True))
    for var, value in zip(closed.jaxpr.constvars, closed.consts, strict=True):
        known[var] = fresh = type(var)(var.aval)
        constants[fresh] = value
    eqns: list[JaxprEqn] = []

    def read(var: Any) -> Any:
        return var if isinstance(var, Constant) else known[var]

    for eqn in closed.jaxpr.eqns:
        operands = [read(v) for v in eqn.invars]
        called = called_jaxpr(eqn)
        if called is not None and _multiplies(eqn):
            inner, results = _flat(called, operands, constants)
            eqns += inner
        else:
            results = [type(v)(v.aval) for v in eqn.outvars]
            eqns.append(eqn.replace(invars=operands, outvars=results))
        known.update(zip(eqn.outvars, results, strict=True))
    return eqns, [read(v) for v in closed.jaxpr.outvars]


def _variables(eqn: JaxprEqn) -> list[Var]:
    return [v for v in eqn.invars if not isinstance(v, Constant)]


def _needed(
    eqn: JaxprEqn, makers: Mapping[Var, JaxprEqn], fed: set[Var], taken: set[int]
) -> Iterator[JaxprEqn]:
    """An equation after those of weights alone that it needs and that no part has yet."""
    for var in _variables(eqn):
        maker = makers.get(var)
        if maker is not None and var not in fed and id(maker) not in taken:
            yield from _needed(maker, makers, fed, taken)
    if id(eqn) not in taken:
        taken.add(id(eqn))
        yield eqn


def _multiplies(eqn: JaxprEqn) -> bool:
    """Whether there is a product in it, perhaps within a call or a loop."""
    if eqn.primitive.name in _PRODUCTS:
        return True
    inner = called_jaxpr(eqn) or eqn.params.get("jaxpr")
    body = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
    return body is not None and any(_multiplies(e) for e in getattr(body, "eqns", ()))


def _parts(
    pieces: Sequence[_Piece], outputs: set[Var], constants: Mapping[Var, Any]
) -> Iterator[Part]:
    later = [{v for p in pieces[i + 1 :] for e in p.eqns for v in _variables(e)}
             for i in range(len(pieces))]  # fmt: skip
    for piece, wanted in zip(pieces, later, strict=True):
        made = {v for e in piece.eqns for v in e.outvars}
        seen: dict[Var, None] = {}
        for eqn in piece.eqns:
            seen.update(dict.fromkeys(v for v in _variables(eqn) if v not in made))
        given = [v for v in seen if v not in constants]
        kept = [v for e in piece.eqns for v in e.outvars if v in wanted or v in outputs]
        if not kept:
            continue
        yield Part(
            slot=piece.slot,
            text=_text(piece.eqns, given, kept, constants),
            function=_function(piece.eqns, given, kept, constants),
            shapes=tuple(_shape(v.aval) for v in given),
        )


def _shape(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)


def _function(
    eqns: Sequence[JaxprEqn],
    given: Sequence[Var],
    kept: Sequence[Var],
    constants: Mapping[Var, Any],
) -> Callable[..., Any]:
    def run(*values: Any) -> list[Any]:
        known: dict[Var, Any] = {**constants, **dict(zip(given, values, strict=True))}
        for eqn in eqns:
            args = [v.val if isinstance(v, Constant) else known[v] for v in eqn.invars]
            with eqn.ctx.manager:
                made = eqn.primitive.bind(*args, **eqn.primitive.get_bind_params(eqn.params))
            results = made if eqn.primitive.multiple_results else [made]
            known.update(zip(eqn.outvars, results, strict=True))
        return [known[v] for v in kept]

    return run


def _text(
    eqns: Sequence[JaxprEqn],
    given: Sequence[Var],
    kept: Sequence[Var],
    constants: Mapping[Var, Any],
) -> str:
    """A hash of the equations, with variables numbered by first use."""
    numbers: dict[Var, int] = {}

    def name(var: Any) -> str:
        if isinstance(var, Constant):
            return f"{var.val!r}:{var.aval}"
        if var in constants:
            array = constants[var]
            return hashlib.sha256(repr((array.shape, array.dtype)).encode()).hexdigest()[:8]
        return f"v{numbers.setdefault(var, len(numbers))}:{var.aval}"

    lines = [" ".join(map(name, given))]
    for eqn in eqns:
        ins, outs = " ".join(map(name, eqn.invars)), " ".join(map(name, eqn.outvars))
        params = " ".join(f"{k}={v}" for k, v in sorted(eqn.params.items()))
        lines.append(f"{outs} = {eqn.primitive.name} {ins} [{params}]")
    lines.append(" ".join(map(name, kept)))
    text = _ADDRESS.sub("", "\n".join(lines))
    return hashlib.sha256(text.encode()).hexdigest()[:24]
