"""Sites: where a model multiplies by its weights, found by tracing, whatever the model is.

A site is a parameter that enters `dot_general` or `conv_general_dilated` as it is. The traced
program can be run again with those products replaced, so pruning and quantisation need no change
of the user's code. Sites inside jit, remat and custom derivatives are found; a weight that a loop
(`scan`, `while`, `cond`) slices, that is used in any other way as well, or whose uses differ in the
axes they sum over, is no site and stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from jax.extend.core import Literal as Constant

Arrays = Mapping[str, Any]
Predict = Callable[[Any, Any, Any], Any]
"""(params, state, inputs) -> outputs; params and state are flat dictionaries."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """One weight tensor that a model multiplies by.

    Args:
        weight: its name among the parameters.
        kind: the operation.
        shape: of the weight.
        axes: the weight's axes that the product sums over; the others number output channels.
    """

    weight: str
    kind: Literal["dot", "convolution"]
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)

    @property
    def channels(self) -> int:
        """The number of output channels: products of the lengths of the other axes."""
        return math.prod(n for i, n in enumerate(self.shape) if i not in self.axes)


@dataclass(frozen=True, kw_only=True)
class Product:
    """A site's multiplication, as the traced program does it.

    Args:
        site: whose weight is multiplied.
        run: (inputs, weight, dtype of the result) -> the bare product.
        spread: the weight's per-channel scales (rank of the weight, length 1 along `axes`) -> the
            same numbers in a shape that broadcasts against the product.
        dtype: of the result that the program goes on with.
    """

    site: Site
    run: Callable[[jax.Array, jax.Array, Any], jax.Array]
    spread: Callable[[jax.Array], jax.Array]
    dtype: Any


Handler = Callable[[Product, jax.Array, Any], jax.Array]
"""(product, inputs, whatever was passed under the weight's name) -> the result of the site."""

_CALLS = frozenset(
    {
        "checkpoint",
        "closed_call",
        "core_call",
        "custom_jvp_call",
        "custom_vjp_call",
        "jit",
        "pjit",
        "remat",
        "remat2",
    }
)
_PRODUCTS = {"dot_general": "dot", "conv_general_dilated": "convolution"}


def find_sites(predict: Predict, params: Arrays, state: Arrays, inputs: Any) -> dict[str, Site]:
    """The sites of a model, in the order in which it uses them.

    Args:
        predict: the model in inference mode.
        params: arrays or their shapes, by name.
        state: likewise.
        inputs: a batch, or its shape.
    """
    closed = jax.make_jaxpr(predict)(params, state, inputs)
    uses: dict[str, list[Site | None]] = {}
    names = dict(zip(closed.jaxpr.invars, sorted(params), strict=False))
    _collect(closed.jaxpr, names, uses)
    return {
        name: first
        for name, found in uses.items()
        if (first := found[0]) is not None and all(site == first for site in found)
    }


def _collect(jaxpr: Jaxpr, names: dict[Var, str], uses: dict[str, list[Site | None]]) -> None:
    names = dict(names)
    for eqn in jaxpr.eqns:
        if _is_cast(eqn) and (n := _name(eqn.invars[0], names)):
            names[eqn.outvars[0]] = n
            continue
        called = _called(eqn)
        if called is not None:  # a weight that it only hands through counts as used otherwise
            inner = zip(called.invars, eqn.invars, strict=True)
            _collect(called, {v: n for v, arg in inner if (n := _name(arg, names))}, uses)
            continue
        weight = _weight_operand(eqn, names)
        for i, var in enumerate(eqn.invars):
            name = _name(var, names)
            if name:
                site = _site(eqn, i, name) if i == weight else None
                uses.setdefault(name, []).append(site)
    for var in jaxpr.outvars:
        if name := _name(var, names):
            uses.setdefault(name, []).append(None)


def _name(var: Any, names: Mapping[Var, str]) -> str | None:
    return None if isinstance(var, Constant) else names.get(var)


def _is_cast(eqn: JaxprEqn) -> bool:
    """Whether it only changes the precision; to integers would round."""
    return eqn.primitive.name == "convert_element_type" and bool(
        jnp.issubdtype(eqn.params["new_dtype"], jnp.floating)
    )


def _called(eqn: JaxprEqn) -> Jaxpr | None:
    if eqn.primitive.name not in _CALLS:
        return None
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner


def _weight_operand(eqn: JaxprEqn, names: Mapping[Var, str]) -> int | None:
    """Which operand of a product is the weight: the only one that is a parameter."""
    if eqn.primitive.name not in _PRODUCTS:
        return None
    named = [i for i, var in enumerate(eqn.invars) if _name(var, names)]
    if len(named) != 1 or (eqn.primitive.name == "conv_general_dilated" and named != [1]):
        return None
    return named[0]


def _site(eqn: JaxprEqn, operand: int, name: str) -> Site:
    aval: Any = eqn.invars[operand].aval
    shape = tuple(aval.shape)
    if eqn.primitive.name == "dot_general":
        axes = tuple(sorted(eqn.params["dimension_numbers"][0][operand]))
    else:
        out_channel = eqn.params["dimension_numbers"].rhs_spec[0]
        axes = tuple(i for i in range(len(shape)) if i != out_channel)
    kind: Any = _PRODUCTS[eqn.primitive.name]
    return Site(weight=name, kind=kind, shape=shape, axes=axes)


def replace_products(
    predict: Predict, sites: Mapping[str, Site], handler: Handler
) -> Callable[[Arrays, Arrays, jax.Array], Any]:
    """The model with the product at each site done by `handler`.

    Args:
        predict: the model in inference mode.
        sites: from `find_sites`; other weights are used as the model does.
        handler: does a site's product. What it gets as the weight is whatever the caller passes
            under its name, in any dtype.

    Returns:
        A function like `predict`, which may be traced, also with a symbolic batch size.
    """

    def run(params: Arrays, state: Arrays, inputs: jax.Array) -> Any:
        shapes = {
            name: jax.ShapeDtypeStruct(sites[name].shape, jnp.float32)
            if name in sites
            else jax.typeof(value)
            for name, value in params.items()
        }
        closed, out_shape = jax.make_jaxpr(predict, return_shape=True)(shapes, state, inputs)
        order = sorted(params)
        args = [*(params[n] for n in order), *jax.tree.leaves((state, inputs))]
        names = {
            var: name
            for var, name in zip(closed.jaxpr.invars, order, strict=False)
            if name in sites
        }
        outputs = _run(closed.jaxpr, closed.consts, args, names, sites, handler)
        return jax.tree.unflatten(jax.tree.structure(out_shape), outputs)

    return run


def _run(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    args: Sequence[Any],
    names: Mapping[Var, str],
    sites: Mapping[str, Site],
    handler: Handler,
) -> list[Any]:
    values: dict[Var, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    names = dict(names)

    def read(var: Any) -> Any:
        return var.val if isinstance(var, Constant) else values[var]

    for eqn in jaxpr.eqns:
        given = [read(var) for var in eqn.invars]
        named = [_name(var, names) for var in eqn.invars]
        called = _called(eqn) if any(named) else None
        if not any(named):
            with eqn.ctx.manager:
                made = eqn.primitive.bind(*given, **eqn.primitive.get_bind_params(eqn.params))
            results = made if eqn.primitive.multiple_results else [made]
        elif _is_cast(eqn):
            names[eqn.outvars[0]] = str(named[0])
            results = given
        elif called is not None:
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            closed_over = inner.consts if isinstance(inner, ClosedJaxpr) else []
            passed = {v: n for v, n in zip(called.invars, named, strict=True) if n}
            results = _run(called, closed_over, given, passed, sites, handler)
        else:
            weight = next(i for i, n in enumerate(named) if n)
            product = _product(eqn, weight, sites[str(named[weight])])
            results = [handler(product, given[1 - weight], given[weight])]
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _product(eqn: JaxprEqn, weight: int, site: Site) -> Product:
    def run(inputs: jax.Array, weights: jax.Array, dtype: Any) -> jax.Array:
        operands = (inputs, weights) if weight == 1 else (weights, inputs)
        params = {**eqn.params, "preferred_element_type": jnp.dtype(dtype)}
        return eqn.primitive.bind(*operands, **params)  # type: ignore[no-any-return]

    numbers = eqn.params["dimension_numbers"]
    result: Any = eqn.outvars[0].aval

    def spread(scales: jax.Array) -> jax.Array:
        if site.kind == "convolution":
            shape = [1] * len(site.shape)
            shape[numbers.out_spec[1]] = site.channels
            return scales.reshape(shape)
        batch = numbers[1][weight]
        free = [i for i in range(len(site.shape)) if i not in (*site.axes, *batch)]
        ordered = jnp.transpose(scales, (*batch, *free, *site.axes))
        others = len(result.shape) - len(batch) - len(free)
        lengths = [site.shape[i] for i in batch], [site.shape[i] for i in free], [1] * others
        last, middle = (1, 2) if weight == 1 else (2, 1)
        return ordered.reshape(*lengths[0], *lengths[middle], *lengths[last])

    return Product(site=site, run=run, spread=spread, dtype=result.dtype)
