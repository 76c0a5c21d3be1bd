"""Sites: where a model multiplies by its weights, found by tracing, whatever the model is.

A site is a parameter that enters `dot_general`, `conv_general_dilated` or a table look-up as it is.
Sites inside jit, scan, remat and custom derivatives are found; a weight that a `while` or `cond`
takes, that is used in any other way as well, whose uses differ in the axes they sum over, or that
holds whole numbers, is no site and stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from jax.extend.core import Literal as Constant

from paretax.spaces.jax_compat import closed_jaxpr, scan_counts

Arrays = Mapping[str, Any]
Predict = Callable[[Any, Any, Any], Any]
"""(params, state, inputs) -> outputs; params and state are flat dictionaries."""

Kind = Literal["dot", "convolution", "embedding"]


@dataclass(frozen=True, kw_only=True)
class Site:
    """One weight tensor that a model multiplies by.

    Args:
        weight: its name among the parameters.
        kind: the operation; an embedding is a look-up of rows.
        shape: of the weight.
        axes: the weight's axes that the product sums over (an embedding's rows); of a
            convolution, that of the input channels last.
        stack: how many leading axes a `scan` takes slices along; none of them is in `axes`.
        multiply_adds: of one example, in all uses.
        grouped: whether a convolution has feature groups, each with input channels of its own.
        dtype: of the weight, as a name.
        dtypes: what its uses take and give, as names: operands as they are multiplied, results.
    """

    weight: str
    kind: Kind
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    stack: int = 0
    multiply_adds: int = 0
    grouped: bool = False
    dtype: str = "float32"
    dtypes: tuple[str, ...] = field(default=("float32",), compare=False)

    @property
    def path(self) -> str:
        """The module that owns the weight."""
        return self.weight.rpartition("/")[0]

    @property
    def size(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)

    @property
    def channels(self) -> int:
        """The number of output channels: products of the lengths of the other axes."""
        return math.prod(n for i, n in enumerate(self.shape) if i not in self.axes)

    @property
    def inner_axis(self) -> int:
        """The axis of input channels: the last that is summed over."""
        return self.axes[-1]

    @property
    def slice(self) -> Site:
        """The site as it stands inside its scans."""
        axes = tuple(a - self.stack for a in self.axes)
        return replace(self, shape=self.shape[self.stack :], axes=axes, stack=0)

    def like(self, other: Site | None) -> bool:
        """Whether another use of the weight is of the same form, in whatever dtypes."""
        return other is not None and replace(self, multiply_adds=other.multiply_adds) == other


_CALLS = frozenset(
    {
        "checkpoint",
        "closed_call",
        "core_call",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vjp_call_jaxpr",
        "jit",
        "pjit",
        "remat",
        "remat2",
    }
)
_PRODUCTS: Mapping[str, Kind] = {
    "dot_general": "dot",
    "conv_general_dilated": "convolution",
    "gather": "embedding",
}


def find_sites(function: Callable[..., Any], params: Arrays, *rest: Any) -> dict[str, Site]:
    """The sites of a model, in the order in which it uses them.

    Args:
        function: (params, *rest) -> anything; the model.
        params: arrays or their shapes, by name.
        rest: likewise: the state, then a batch, which multiply-adds are divided by.
    """
    closed = jax.make_jaxpr(function)(params, *rest)
    uses: dict[str, list[Site | None]] = {}
    every = dict(zip(closed.jaxpr.invars, sorted(params), strict=False))
    names = {v: n for v, n in every.items() if jnp.issubdtype(v.aval.dtype, jnp.floating)}
    for name in _collect(closed.jaxpr, names, uses, 1):
        if name:  # an output of the model
            uses.setdefault(name, []).append(None)
    shape = getattr(rest[1], "shape", ()) if len(rest) > 1 else ()
    batch = max(int(shape[0]), 1) if shape else 1
    dtypes = {name: str(var.aval.dtype) for var, name in names.items()}
    found = {}
    for name, sites in uses.items():
        first = sites[0]
        if first is not None and all(first.like(site) for site in sites):
            used = [site for site in sites if site is not None]
            found[name] = replace(
                first,
                multiply_adds=sum(site.multiply_adds for site in used) // batch,
                dtype=dtypes[name],
                dtypes=tuple(sorted({dtype for site in used for dtype in site.dtypes})),
            )
    return found


def _collect(
    jaxpr: Jaxpr,
    names: dict[Var, str],
    uses: dict[str, list[Site | None]],
    times: int,
) -> list[str | None]:
    """Add the uses of parameters in a program; returns which of them its outputs are."""
    names = dict(names)
    for eqn in jaxpr.eqns:
        named = [name_of(var, names) for var in eqn.invars]
        if is_cast(eqn) and named[0]:
            names[eqn.outvars[0]] = named[0]
            continue
        called = called_jaxpr(eqn)
        if called is not None:
            inner = zip(called.jaxpr.invars, named, strict=True)
            handed = _collect(called.jaxpr, {v: n for v, n in inner if n}, uses, times)
            names.update({v: n for v, n in zip(eqn.outvars, handed, strict=True) if n})
            continue
        if eqn.primitive.name == "scan":
            _collect_scan(eqn, named, uses, times)
            continue
        weight = _weight_operand(eqn, names)
        for i, name in enumerate(named):
            if name:
                site = _site(eqn, i, name, times) if i == weight else None
                uses.setdefault(name, []).append(site)
    return [name_of(var, names) for var in jaxpr.outvars]


def _collect_scan(
    eqn: JaxprEqn,
    named: list[str | None],
    uses: dict[str, list[Site | None]],
    times: int,
) -> None:
    """A weight that the body slices is a stack of sites; one that it closes over is one site."""
    inner: Jaxpr = eqn.params["jaxpr"].jaxpr
    length = int(eqn.params["length"])
    consts, carried = scan_counts(eqn)
    first = consts + carried
    names: dict[Var, str] = {}
    ways: dict[str, set[bool]] = {}  # whether a weight is sliced
    for i, (var, name) in enumerate(zip(inner.invars, named, strict=True)):
        if name and consts <= i < first:
            uses.setdefault(name, []).append(None)
        elif name:
            names[var] = name
            ways.setdefault(name, set()).add(i >= first)
    found: dict[str, list[Site | None]] = {}
    for name in _collect(inner, names, found, times * length):
        if name:
            found.setdefault(name, []).append(None)
    for name, sites in found.items():
        for site in sites:
            if site is not None and ways[name] == {True}:
                axes, shape = tuple(a + 1 for a in site.axes), (length, *site.shape)
                site = replace(site, shape=shape, axes=axes, stack=site.stack + 1)
            uses.setdefault(name, []).append(site if len(ways[name]) == 1 else None)


def name_of(var: Any, names: Mapping[Var, str]) -> str | None:
    """The parameter that a variable holds."""
    return None if isinstance(var, Constant) else names.get(var)


def is_cast(eqn: JaxprEqn) -> bool:
    """Whether it only changes the precision; to integers would round."""
    return eqn.primitive.name == "convert_element_type" and bool(
        jnp.issubdtype(eqn.params["new_dtype"], jnp.floating)
    )


def called_jaxpr(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """The function that an equation calls once with its own operands."""
    if eqn.primitive.name not in _CALLS:
        return None
    keys = ("jaxpr", "call_jaxpr", "fun_jaxpr")
    return closed_jaxpr(next(eqn.params[key] for key in keys if key in eqn.params))


def _weight_operand(eqn: JaxprEqn, names: Mapping[Var, str]) -> int | None:
    """Which operand of a product is the weight: the only one that is a parameter."""
    kind = _PRODUCTS.get(eqn.primitive.name)
    named = [i for i, var in enumerate(eqn.invars) if name_of(var, names)]
    if kind is None or len(named) != 1:
        return None
    if kind == "convolution" and named != [1]:
        return None
    if kind == "embedding" and not (named == [0] and _looks_up_rows(eqn)):
        return None
    return named[0]


def _looks_up_rows(eqn: JaxprEqn) -> bool:
    """Whether a gather takes whole rows of a table, as `jnp.take(table, indices, axis=0)` does."""
    table: Any = eqn.invars[0].aval
    numbers, shape = eqn.params["dimension_numbers"], table.shape
    return (
        numbers.collapsed_slice_dims == (0,)
        and numbers.start_index_map == (0,)
        and not numbers.operand_batching_dims
        and tuple(eqn.params["slice_sizes"]) == (1, *shape[1:])
    )


def _site(eqn: JaxprEqn, operand: int, name: str, times: int) -> Site:
    aval: Any = eqn.invars[operand].aval
    result: Any = eqn.outvars[0].aval
    shape = tuple(aval.shape)
    kind = _PRODUCTS[eqn.primitive.name]
    grouped = False
    dtypes = _dtypes(eqn, kind)
    if kind == "dot":
        axes = tuple(sorted(eqn.params["dimension_numbers"][0][operand]))
    elif kind == "convolution":
        _, channels, *window = eqn.params["dimension_numbers"].rhs_spec
        axes = (*sorted(window), channels)
        grouped = eqn.params["feature_group_count"] > 1 or eqn.params["batch_group_count"] > 1
    else:
        return Site(weight=name, kind=kind, shape=shape, axes=(0,), dtypes=dtypes)
    each = math.prod(result.shape) * math.prod(shape[i] for i in axes)
    return Site(
        weight=name,
        kind=kind,
        shape=shape,
        axes=axes,
        multiply_adds=times * each,
        grouped=grouped,
        dtypes=dtypes,
    )


def _dtypes(eqn: JaxprEqn, kind: Kind) -> tuple[str, ...]:
    """What a product takes and gives; the rows of a look-up are asked for by whole numbers."""
    taken = eqn.invars[:1] if kind == "embedding" else eqn.invars
    return tuple(sorted({str(var.aval.dtype) for var in (*taken, *eqn.outvars)}))  # type: ignore[attr-defined]
