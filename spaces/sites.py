"""Sites: where a model multiplies by its weights, found by tracing, whatever the model is.

A site is a parameter that enters `dot_general`, `conv_general_dilated` or a table look-up: as it
is, or in another layout (`views`), alone or joined with others. Sites inside jit, scan, remat and
custom derivatives are found, and one weight may be used in several ways (an embedding that is also
the output layer). A weight that a `while` or `cond` takes, or that is used in any other way as
well, or that holds whole numbers, is no site and stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from jax.extend.core import Literal as Constant

from paretax.spaces.jax_compat import closed_jaxpr, scan_counts
from paretax.spaces.taps import convolution_multiply_adds
from paretax.spaces.views import Held, Joined, View, at, through, views_in

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
        axes: the weight's axes along which scales are shared: those that a product sums over (an
            embedding's rows), and those that are one with them on the way; of a convolution, that
            of the input channels last.
        stack: how many leading axes a `scan` takes slices along; none of them is in `axes`.
        multiply_adds: of one example, in all uses; zeros that a transposed convolution puts between
            its inputs are not multiplied.
        grouped: whether a convolution has feature groups, each with input channels of its own.
        whole: whether each product sums over the axis of input channels as it is stored, so that
            neighbours along it may share a scale.
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
    whole: bool = True
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


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a model does with its parameters.

    Args:
        sites: by the name of the weight, in the order of use.
        others: why each of the other floating-point parameters is no site, by name.
    """

    sites: dict[str, Site]
    others: dict[str, str]


def find_sites(function: Callable[..., Any], params: Arrays, *rest: Any) -> dict[str, Site]:
    """The sites of a model, in the order in which it uses them.

    Args:
        function: (params, *rest) -> anything; the model.
        params: arrays or their shapes, by name.
        rest: likewise: the state, then a batch, which multiply-adds are divided by.
    """
    return find_weights(function, params, *rest).sites


def find_weights(function: Callable[..., Any], params: Arrays, *rest: Any) -> Weights:
    """The sites of a model, and why its other parameters are none; arguments as `find_sites`."""
    closed = jax.make_jaxpr(function)(params, *rest)
    names = sorted(params)
    dtypes = dict(zip(names, (v.aval.dtype for v in closed.jaxpr.invars), strict=False))
    floating = [n for n in names if jnp.issubdtype(dtypes[n], jnp.floating)]
    search = _Search()
    args: list[Held | None] = [None] * len(closed.jaxpr.invars)
    for i, name in enumerate(names):
        if name in floating:
            args[i] = View.of(name, tuple(closed.jaxpr.invars[i].aval.shape))
    for held in search.walk(closed.jaxpr, args, 1):
        search.refuse([held], "it is an output of the model")
    shape = getattr(rest[1], "shape", ()) if len(rest) > 1 else ()
    batch = max(int(shape[0]), 1) if shape else 1
    shapes = {n: tuple(v.aval.shape) for n, v in zip(names, closed.jaxpr.invars, strict=False)}
    sites = {}
    for name, uses in search.uses.items():
        if name not in search.refused:
            found = _site(name, shapes[name], uses, batch)
            if found is None:
                search.refused[name] = "no product sums over any of its axes"
            else:
                sites[name] = replace(found, dtype=str(dtypes[name]))
    others = {n: search.refused.get(n, "nothing uses it") for n in floating if n not in sites}
    return Weights(sites=sites, others=others)


@dataclass(frozen=True, kw_only=True)
class _Use:
    """One product, or look-up, with a weight.

    Args:
        view: of the weight, as the product takes it.
        kind: of the operation.
        summed: the axes of the weight that it sums over, or looks up along; input channels apart.
        inner: those of the input channels.
        multiply_adds: of a batch.
        grouped: whether it is a convolution in feature groups.
        dtypes: what it takes and gives.
    """

    view: View
    kind: Kind
    summed: frozenset[int]
    inner: frozenset[int]
    multiply_adds: int = 0
    grouped: bool = False
    dtypes: frozenset[str] = frozenset()


def _site(name: str, shape: tuple[int, ...], uses: Sequence[_Use], batch: int) -> Site | None:
    """What all uses of a weight have in common; None where none sums over an axis."""
    products = [use for use in uses if use.kind != "embedding"] or uses
    stack = min(use.view.stack for use in uses)
    first = products[0]
    ways = {(use.summed, use.inner) for use in products}
    axes = frozenset().union(*(summed | inner for summed, inner in ways))
    merged = [joint for use in uses for joint in use.view.merged]
    while torn := [joint for joint in merged if joint & axes and not joint <= axes]:
        axes = axes.union(*torn)
    if not axes or min(axes) < stack:
        return None
    inner = sorted(first.inner) or [max(axes)]
    whole = len(ways) == 1 and axes == first.summed | first.inner
    return Site(
        weight=name,
        kind=first.kind,
        shape=shape,
        axes=(*sorted(axes - set(inner)), *inner),
        stack=stack,
        multiply_adds=sum(use.multiply_adds for use in uses) // batch,
        grouped=any(use.grouped for use in uses),
        dtypes=tuple(sorted(frozenset().union(*(use.dtypes for use in uses)))),
        whole=whole
        and len(inner) == 1
        and len({use.kind for use in uses}) == 1
        and all(inner[0] in use.view.lone for use in uses),
    )


class _Search:
    """Walks through a program, and notes how each parameter is used."""

    def __init__(self) -> None:
        self.uses: dict[str, list[_Use]] = {}
        self.refused: dict[str, str] = {}

    def refuse(self, held: Iterable[Held | None], reason: str) -> None:
        """None of these weights is a site."""
        for one in held:
            for view in views_in(one):
                self.refused.setdefault(str(view.name), reason)

    def walk(self, jaxpr: Jaxpr, args: Sequence[Held | None], times: int) -> list[Held | None]:
        """Add the uses of parameters in a program; returns what its outputs hold of them."""
        values: dict[Var, Held] = {}

        def keep(variables: Sequence[Any], found: Sequence[Held | None]) -> None:
            values.update({v: h for v, h in zip(variables, found, strict=True) if h is not None})

        def read(var: Any) -> Held | None:
            return None if isinstance(var, Constant) else values.get(var)

        keep(jaxpr.invars, args)
        for eqn in needed(jaxpr):
            held = [read(var) for var in eqn.invars]
            if all(one is None for one in held):
                continue
            if (called := called_jaxpr(eqn)) is not None:
                keep(eqn.outvars, self.walk(called.jaxpr, held, times))
            elif eqn.primitive.name == "scan":
                self._scan(eqn, held, times)
            elif (moved := self._through(eqn, held)) is not None:
                keep(eqn.outvars, moved)
            elif (operand := weight_operand(eqn, held)) is not None:
                self._use(eqn, operand, held[operand], times)
            else:
                self.refuse(held, f"it enters `{eqn.primitive.name}`")
        return [read(var) for var in jaxpr.outvars]

    def _through(self, eqn: JaxprEqn, held: list[Held | None]) -> list[Held | None] | None:
        if eqn.primitive.name in ("mul", "div") and all(one is not None for one in held):
            for i, one in enumerate(held):  # a learned factor
                if one is not None and math.prod(one.shape) == 1:
                    self.refuse([one], f"it enters `{eqn.primitive.name}`")
                    held[i] = None
                    break
        return through(eqn, held, [None] * len(held))

    def _scan(self, eqn: JaxprEqn, held: Sequence[Held | None], times: int) -> None:
        """A weight that the body slices is a stack of sites; one that it closes over is one."""
        inner: Jaxpr = eqn.params["jaxpr"].jaxpr
        (consts, carried), length = scan_counts(eqn), int(eqn.params["length"])
        first = consts + carried
        self.refuse(held[consts:first], "a loop changes it (`scan`)")
        sliced, fixed = held[first:], [*held[:consts], *[None] * (first - consts)]
        alone = f"a loop of {length} rounds takes it apart (`scan`)"
        if any(isinstance(one, Joined) and one.axis == 0 for one in sliced):
            rounds = [
                [None if one is None else at(one, i) for one in sliced]
                for i in range(min(length, MOST_ROUNDS))
            ]
            each = times
        else:
            rounds, each = [[_round(one) for one in sliced]], times * length
        for one, *parts in zip(sliced, *rounds, strict=True):
            if one is not None and (length > MOST_ROUNDS * len(rounds) or None in parts):
                self.refuse([one], alone)
        for taken in rounds:
            for one in self.walk(inner, [*fixed, *taken], each):
                self.refuse([one], "a loop hands it on (`scan`)")

    def _use(self, eqn: JaxprEqn, operand: int, held: Held | None, times: int) -> None:
        kind = _PRODUCTS[eqn.primitive.name]
        if isinstance(held, Joined):
            if not may_be_joined(eqn, held.axis):
                self.refuse([held], f"it enters `{eqn.primitive.name}` joined with others")
                return
            for part in held.parts:
                self._use(eqn, operand, part, times)
        elif held is not None and held.name is not None:
            axes, inner = summed_axes(eqn, operand)
            groups = 1
            if kind == "convolution":
                groups = max(eqn.params["feature_group_count"], eqn.params["batch_group_count"])
            use = _Use(
                view=held,
                kind=kind,
                summed=frozenset().union(*(held.origin(i) for i in axes if i != inner)),
                inner=frozenset() if inner is None else held.origin(inner),
                multiply_adds=times * _multiply_adds(eqn, operand, held),
                grouped=groups > 1,
                dtypes=_dtypes(eqn, kind),
            )
            self.uses.setdefault(held.name, []).append(use)


MOST_ROUNDS = 64
"""Of a loop over joined weights, which is written out."""


def _round(held: Held | None) -> Held | None:
    """What a round of a scan takes of a value, as far as shapes go."""
    if isinstance(held, View) and held.fresh:
        return held.sliced(None)
    return None if held is None else at(held, jnp.int32(0))


def needed(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """The equations without those whose results nobody reads, such as a value taken for its shape.

    They would tie axes for nothing, or be uses of a weight.
    """
    read = {var for var in jaxpr.outvars if isinstance(var, Var)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or not read.isdisjoint(eqn.outvars):
            kept.append(eqn)
            read.update(var for var in eqn.invars if isinstance(var, Var))
    return kept[::-1]


def called_jaxpr(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """The function that an equation calls once with its own operands."""
    if eqn.primitive.name not in _CALLS:
        return None
    keys = ("jaxpr", "call_jaxpr", "fun_jaxpr")
    return closed_jaxpr(next(eqn.params[key] for key in keys if key in eqn.params))


def weight_operand(eqn: JaxprEqn, held: Sequence[Held | None]) -> int | None:
    """Which operand of a product is the weight: the only one that holds a parameter."""
    kind = _PRODUCTS.get(eqn.primitive.name)
    found = [i for i, one in enumerate(held) if one is not None]
    if kind is None or len(found) != 1:
        return None
    if kind == "convolution" and found != [1]:
        return None
    if kind == "embedding" and not (found == [0] and _looks_up_rows(eqn)):
        return None
    return found[0]


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


def kind_of(eqn: JaxprEqn) -> Kind:
    """What a product is."""
    return _PRODUCTS[eqn.primitive.name]


def summed_axes(eqn: JaxprEqn, operand: int) -> tuple[tuple[int, ...], int | None]:
    """The axes of a product's weight that it sums over (of a table, the rows'), and the last one.

    Of a convolution, that is the axis of the input channels; None: it sums over none.
    """
    kind = _PRODUCTS[eqn.primitive.name]
    if kind == "embedding":
        return (0,), 0
    if kind == "convolution":
        _, channels, *window = eqn.params["dimension_numbers"].rhs_spec
        return (*sorted(window), channels), channels
    axes = tuple(sorted(eqn.params["dimension_numbers"][0][operand]))
    return axes, axes[-1] if axes else None


def may_be_joined(eqn: JaxprEqn, axis: int) -> bool:
    """Whether a product with weights that are joined along an axis is one with each of them."""
    kind = _PRODUCTS[eqn.primitive.name]
    if kind == "convolution":
        groups = eqn.params["feature_group_count"], eqn.params["batch_group_count"]
        return groups == (1, 1) and axis in eqn.params["dimension_numbers"].rhs_spec[:2]
    return kind == "dot"


def _multiply_adds(eqn: JaxprEqn, operand: int, view: View) -> int:
    """Of all examples. A part of a joined weight makes its own share of them."""
    whole: Any = eqn.invars[operand].aval
    result: Any = eqn.outvars[0].aval
    if _PRODUCTS[eqn.primitive.name] == "embedding":
        return 0
    if _PRODUCTS[eqn.primitive.name] == "convolution":
        total = convolution_multiply_adds(eqn)
    else:
        axes, _ = summed_axes(eqn, operand)
        total = math.prod(result.shape) * math.prod(whole.shape[i] for i in axes)
    share: int = total * math.prod(view.shape) // max(1, math.prod(whole.shape))
    return share


def _dtypes(eqn: JaxprEqn, kind: Kind) -> frozenset[str]:
    """What a product takes and gives; the rows of a look-up are asked for by whole numbers."""
    taken = eqn.invars[:1] if kind == "embedding" else eqn.invars
    return frozenset(str(var.aval.dtype) for var in (*taken, *eqn.outvars))  # type: ignore[attr-defined]
