"""A program cut into parts, each around one product of matrices or convolution.

A part starts at a product, the first one at the inputs, and ends before the next one, so that an
activation, a normalisation or the rounding to integers stays with the product that it follows, as
compilers fuse them. What depends on weights alone (a cast, a scale) goes with the product that uses
it, and with each that does. Equal parts of different programs are equal text, so each is compiled
once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Var
from jax.extend.core import Literal as Constant

from paretax.spaces.jax_compat import bind
from paretax.spaces.sites import called_jaxpr

START = "start"
"""The slot of a program without any product."""

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
        fed: which of these only products take, in float32 at the default precision.
        feeds: likewise, of what it gives.
    """

    slot: str
    text: str
    function: Callable[..., Any]
    shapes: tuple[jax.ShapeDtypeStruct, ...]
    fed: tuple[bool, ...]
    feeds: tuple[bool, ...]

    @property
    def rounded(self) -> Part:
        """As XLA makes it of a whole program on a TPU, which multiplies float32 in bfloat16.

        What only products will take is rounded where it is made, and carried in half the bytes.
        """

        def run(*values: Any) -> list[Any]:
            given = [
                v.astype(jnp.float32) if n else v for v, n in zip(values, self.fed, strict=True)
            ]
            made = self.function(*given)
            return [
                v.astype(jnp.bfloat16) if n else v for v, n in zip(made, self.feeds, strict=True)
            ]

        shapes = tuple(
            jax.ShapeDtypeStruct(s.shape, jnp.bfloat16) if n else s
            for s, n in zip(self.shapes, self.fed, strict=True)
        )
        return replace(self, function=run, shapes=shapes)


@dataclass
class _Piece:
    """The equations of a part under construction."""

    slot: str
    eqns: list[JaxprEqn]
    taken: set[int] = field(default_factory=set)  # of its equations, by id

    def reads(self) -> set[Var]:
        """What it takes from others."""
        made = {v for e in self.eqns for v in e.outvars}
        return {v for e in self.eqns for v in _variables(e)} - made


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
    after = 0
    for eqn in eqns:
        if not any(var in fed for var in _variables(eqn)):
            continue  # of weights alone: it goes with who uses it
        fed.update(eqn.outvars)
        fresh = _multiplies(eqn) and pieces[-1].slot != START
        needed = list(_needed(eqn, makers, fed, set() if fresh else pieces[-1].taken))
        if _multiplies(eqn):
            weights = [names[v] for e in needed for v in _variables(e) if v in names]
            after = 0 if weights else after + 1
            before = pieces[-1].slot.partition("+")[0].partition("#")[0]
            slot = weights[0] if weights else f"{before}+{after}"
            again = sum(piece.slot.partition("#")[0] == slot for piece in pieces)
            if pieces[-1].slot == START:  # what is done to the inputs goes with the first product
                pieces[-1].slot = slot
            else:
                pieces.append(_Piece(f"{slot}#{again + 1}" if again else slot, []))
        pieces[-1].eqns += needed
        pieces[-1].taken.update(map(id, needed))
    taken = set().union(*(piece.taken for piece in pieces))
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
    """An equation after those of weights alone that it needs and that the part lacks."""
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
    rounding = _rounding(pieces, outputs)
    later: list[set[Var]] = [
        set().union(*(p.reads() for p in pieces[i + 1 :])) for i in range(len(pieces))
    ]
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
            text=_text(piece.eqns, given, kept, constants, rounding),
            function=_function(piece.eqns, given, kept, constants),
            shapes=tuple(_shape(v.aval) for v in given),
            fed=tuple(v in rounding for v in given),
            feeds=tuple(v in rounding for v in kept),
        )


def _rounding(pieces: Sequence[_Piece], outputs: set[Var]) -> set[Var]:
    """The float32 values that products at the default precision take, and nothing else."""
    takers: dict[Var, list[JaxprEqn]] = {}
    for piece in pieces:
        for eqn in piece.eqns:
            for var in _variables(eqn):
                takers.setdefault(var, []).append(eqn)
    made = {v for p in pieces for e in p.eqns for v in e.outvars} - outputs
    return {
        var
        for var, eqns in takers.items()
        if var in made and _shape(var.aval).dtype == jnp.float32 and all(map(_rounds, eqns))
    }


def _rounds(eqn: JaxprEqn) -> bool:
    precision = eqn.params.get("precision")
    asked = precision if isinstance(precision, tuple) else (precision,)
    default = all(p in (None, jax.lax.Precision.DEFAULT) for p in asked)
    return eqn.primitive.name in _PRODUCTS and default


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
            known.update(zip(eqn.outvars, bind(eqn, args), strict=True))
        return [known[v] for v in kept]

    return run


def _text(
    eqns: Sequence[JaxprEqn],
    given: Sequence[Var],
    kept: Sequence[Var],
    constants: Mapping[Var, Any],
    rounding: set[Var],
) -> str:
    """A hash of the equations, with variables numbered by first use."""
    numbers: dict[Var, int] = {}

    def name(var: Any) -> str:
        if isinstance(var, Constant):
            return f"{var.val!r}:{var.aval}"
        if var in constants:
            array = constants[var]
            return hashlib.sha256(repr((array.shape, array.dtype)).encode()).hexdigest()[:8]
        mark = "~" if var in rounding else ""
        return f"{mark}v{numbers.setdefault(var, len(numbers))}:{var.aval}"

    lines = [" ".join(map(name, given))]
    for eqn in eqns:
        ins, outs = " ".join(map(name, eqn.invars)), " ".join(map(name, eqn.outvars))
        params = " ".join(f"{k}={v}" for k, v in sorted(eqn.params.items()))
        lines.append(f"{outs} = {eqn.primitive.name} {ins} [{params}]")
    lines.append(" ".join(map(name, kept)))
    text = _ADDRESS.sub("", "\n".join(lines))
    return hashlib.sha256(text.encode()).hexdigest()[:24]
