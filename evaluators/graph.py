"""A traced program in words, which are found faster than its StableHLO.

The words hold everything that the program does: the arrays that it holds anywhere, and the traced
derivatives of what has its own (`custom_vjp` and the like), which the printed text leaves out. What
cannot be seen, such as the function of a callback, is named.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from jax.extend.core import Literal as Constant

from paretax.spaces.derivatives import is_custom, primal_of, traced_rule

_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl")
"""Of JAX, by which equal graphs may be lowered to different programs."""

_REPEATED = frozenset({("reduce", "computation")})
"""Parameters that are functions, and stand beside their own traced form."""

_DEEPEST = 12
"""Objects within objects that are looked into."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))
_PRINTED = (jax.sharding.Mesh, jax.sharding.AbstractMesh, jax.sharding.Sharding)
"""Classes of JAX that print all that counts on one device."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """A graph in words.

    Args:
        words: equal ones are of equal programs, if nothing is unseen.
        unseen: what the words lack, such as "callback of pure_callback".
    """

    words: str
    unseen: frozenset[str] = frozenset()


def describe(closed: ClosedJaxpr, *, derivatives: bool = True) -> Description:
    """All that a graph does.

    Args:
        closed: the graph.
        derivatives: whether its own derivatives count; where it is only lowered they do not.
    """
    return _describe(closed, _Reader(derivatives=derivatives))


def describe_without_numbers(closed: ClosedJaxpr) -> Description:
    """As `describe`, without the scalars for which `is_number` holds.

    Those within something that has a derivative of its own stay: they are part of both.
    """
    return _describe(closed, _Reader(numbers=False))


def outline(closed: ClosedJaxpr) -> str:
    """The places of equations and numbers, without values, held arrays and own derivatives."""
    return _describe(closed, _Reader(numbers=False, derivatives=False, values=False)).words


def graph_key(closed: ClosedJaxpr, *, derivatives: bool = True) -> str | None:
    """SHA-256 of all that a graph does, JAX's version and settings; None where a part is unseen.

    Equal keys are lowered to equal programs; the reverse need not hold.

    Args:
        closed: the graph.
        derivatives: see `describe`.
    """
    found = describe(closed, derivatives=derivatives)
    if found.unseen:
        return None
    settings = {name: getattr(jax.config, name) for name in _SETTINGS}
    about = f"{found.words}\n{jax.__version__} {settings}"
    return hashlib.sha256(about.encode()).hexdigest()[:24]


def is_number(var: Any) -> TypeGuard[Constant]:
    """Whether an operand is a constant floating-point scalar."""
    return (
        isinstance(var, Constant)
        and getattr(var.aval, "shape", None) == ()
        and bool(jnp.issubdtype(getattr(var.aval, "dtype", np.dtype(bool)), jnp.floating))
    )


def _describe(closed: ClosedJaxpr, reader: _Reader) -> Description:
    words = reader.program(closed)
    return Description(words=words, unseen=frozenset(reader.unseen))


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Puts a graph in words.

    Args:
        numbers: whether scalar constants are shown.
        derivatives: whether derivatives of its own are.
        values: whether held arrays are, and what has a derivative of its own.
        unseen: gets what cannot be seen.
    """

    numbers: bool = True
    derivatives: bool = True
    values: bool = True
    unseen: set[str] = field(default_factory=set)

    def program(self, program: ClosedJaxpr | Jaxpr) -> str:
        jaxpr, held = program, ""
        if isinstance(program, ClosedJaxpr):
            jaxpr, held = program.jaxpr, " ".join(self._value(c, "array") for c in program.consts)
        assert isinstance(jaxpr, Jaxpr)
        names: dict[Var, str] = {}
        given = [self._new(var, names) for var in (*jaxpr.constvars, *jaxpr.invars)]
        lines = [f"{len(jaxpr.constvars)} held [{held}] given {' '.join(given)}"]
        lines += [self._equation(eqn, names) for eqn in jaxpr.eqns]
        lines.append(f"gives {' '.join(self._operand(var, names) for var in jaxpr.outvars)}")
        return "{\n" + "\n".join(lines) + "\n}"

    def _new(self, var: Var, names: dict[Var, str]) -> str:
        names[var] = str(len(names))
        return f"{names[var]}:{_type_of(var.aval)}"

    def _operand(self, var: Any, names: Mapping[Var, str]) -> str:
        if not isinstance(var, Constant):
            return names[var]
        shown = self.numbers or not is_number(var)
        value = self._value(np.asarray(var.val), "constant") if shown else "number"
        return f"{value}:{_type_of(var.aval)}"

    def _equation(self, eqn: JaxprEqn, names: dict[Var, str]) -> str:
        operands = " ".join(self._operand(var, names) for var in eqn.invars)
        about = self._custom(eqn) if is_custom(eqn) else self._parameters(eqn)
        made = " ".join(self._new(var, names) for var in eqn.outvars)
        return f"{made} = {eqn.primitive.name} {operands} {about} {eqn.ctx}"

    def _parameters(self, eqn: JaxprEqn) -> str:
        name = eqn.primitive.name
        shown = {n: v for n, v in eqn.params.items() if (name, n) not in _REPEATED}
        return " ".join(f"{n}={self._value(v, f'{n} of {name}')}" for n, v in sorted(shown.items()))

    def _custom(self, eqn: JaxprEqn) -> str:
        """What has a derivative of its own: all of it, as no number within is taken out."""
        if not self.values:
            return "own"
        whole = replace(self, numbers=True, derivatives=False)
        primal = whole.program(primal_of(eqn))
        if not self.derivatives:
            return primal
        rule = traced_rule(eqn)
        if rule is None:
            self.unseen.add(f"derivative of {primal_of(eqn).jaxpr.debug_info.func_name}")
            return primal
        return f"{primal} differentiated {whole.program(rule)}"

    def _value(self, value: Any, place: str, depth: int = 0) -> str:
        """A parameter or a held value; by its contents, or else unseen."""
        if isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, ClosedJaxpr | Jaxpr):
            return self.program(value)
        if isinstance(value, jax.core.Tracer) or depth > _DEEPEST:
            return self._hidden(place)
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            return self._array(value)
        if isinstance(value, enum.Enum):
            return str(value)
        if isinstance(value, np.dtype | type):
            return str(value)
        if isinstance(value, tuple | list | set | frozenset | Mapping):
            return self._collection(value, place, depth)
        if isinstance(value, functools.partial):
            parts = (value.func, value.args, dict(value.keywords))
            return f"partial{self._value(parts, place, depth + 1)}"
        return self._object(value, place, depth)

    def _collection(self, value: Any, place: str, depth: int) -> str:
        inner = functools.partial(self._value, place=place, depth=depth + 1)
        if isinstance(value, Mapping):
            parts = sorted(f"{inner(k)}: {inner(v)}" for k, v in value.items())
        elif isinstance(value, set | frozenset):
            parts = sorted(map(inner, value))
        else:
            parts = list(map(inner, value))
        return f"{type(value).__name__}({', '.join(parts)})"

    def _array(self, value: Any) -> str:
        """By its bytes; printed arrays are cut short, and rounded."""
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return f"key {value.dtype} {self._array(jax.random.key_data(value))}"
        about = f"{value.dtype}{value.shape}"
        if not self.values:
            return about
        content = np.asarray(value)
        if content.dtype == object:
            return self._hidden("array of objects")
        if content.size == 1:
            return f"{about} {content.tobytes().hex()}"
        return f"{about} {hashlib.sha256(content.tobytes()).hexdigest()}"

    def _object(self, value: Any, place: str, depth: int) -> str:
        kind = type(value)
        of_jax = _is_of_jax(f"{kind.__module__}.{kind.__qualname__}")
        if of_jax and hasattr(value, "str_short"):
            return _type_of(value)
        if isinstance(value, _PRINTED) or kind.__module__.startswith("jaxlib"):
            printed = repr(value)
            return printed if " at 0x" not in printed else self._hidden(place)
        if isinstance(value, types.FunctionType | types.BuiltinFunctionType):
            named = f"{value.__module__}.{value.__qualname__}"
            return named if _is_of_jax(named) else self._hidden(place)
        if of_jax and hasattr(value, "__dict__"):
            return f"{kind.__qualname__}{self._value(vars(value), place, depth + 1)}"
        return self._hidden(place)

    def _hidden(self, place: str) -> str:
        self.unseen.add(place)
        return "unseen"


def _is_of_jax(named: str) -> bool:
    """Whether JAX itself defines it, so that its name and JAX's version say what it is."""
    return named.startswith("jax.") and "<locals>" not in named


def _type_of(aval: Any) -> str:
    """Also where it is only loosely a type (`weak_type`), which prints alike."""
    return f"{aval.str_short(short_dtypes=True)}{'~' if getattr(aval, 'weak_type', False) else ''}"
