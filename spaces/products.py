"""Running a traced model again, with the product at each of its sites done otherwise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Var
from jax.extend.core import Literal as Constant

from paretax.spaces.jax_compat import bind, scan_counts
from paretax.spaces.sites import Arrays, Site, called_jaxpr, is_cast, name_of


@dataclass(frozen=True, kw_only=True)
class Product:
    """A site's multiplication, as the traced program does it.

    Args:
        site: whose weight is multiplied; inside a scan, one slice of it.
        run: (inputs, weight, dtype of the result) -> the bare product. A look-up takes whole
            numbers as inputs.
        spread: the weight's scales (rank of the weight, length 1 along `axes`) -> the same numbers
            in a shape that broadcasts against the product.
        inputs_axis: the axis of the inputs that is summed against an axis of the weight.
        dtype: of the result that the program goes on with.
        weight_dtype: in which the program multiplies the weight.
    """

    site: Site
    run: Callable[[jax.Array, jax.Array, Any], jax.Array]
    spread: Callable[[jax.Array], jax.Array]
    inputs_axis: Callable[[int], int]
    dtype: Any
    weight_dtype: Any


Note = Any
"""A pytree of what a handler reports of a use of a site, such as the range of its inputs."""

Handler = Callable[[Product, jax.Array, Any], tuple[jax.Array, Note]]
"""(product, inputs, the operand that was passed under the weight's name) -> (result, note)"""

Notes = dict[str, Note]

Join = Callable[[Note, Note], Note]


def replace_products(
    function: Callable[..., Any],
    sites: Mapping[str, Site],
    handler: Handler,
    join: Join = lambda _, later: later,
) -> Callable[..., tuple[Any, Notes]]:
    """The model with the product at each site done by `handler`.

    Args:
        function: (params, *rest) -> outputs; the model.
        sites: from `find_sites`; other weights are used as the model does.
        handler: does a site's product. Its operand is whatever pytree the caller passes under the
            weight's name; a scan that slices the weight slices every array of it.
        join: makes one note of the notes of two uses of the same slice.

    Returns:
        A function (params, *rest) -> (outputs, notes by site), which may be traced, also with a
        symbolic batch size. The notes of a stacked site have its leading axes.
    """

    def run(params: Arrays, *rest: Any) -> tuple[Any, Notes]:
        shapes = {
            name: jax.ShapeDtypeStruct(sites[name].shape, sites[name].dtype)
            if name in sites
            else jax.typeof(value)
            for name, value in params.items()
        }
        closed, out_shape = jax.make_jaxpr(function, return_shape=True)(shapes, *rest)
        order = sorted(params)
        args = [*(params[n] for n in order), *jax.tree.leaves(rest)]
        named = zip(closed.jaxpr.invars, order, strict=False)
        names = {var: name for var, name in named if name in sites}
        replay = _Replay({name: site.slice for name, site in sites.items()}, handler, join)
        outputs, notes, _ = replay.run(closed.jaxpr, closed.consts, args, names)
        return jax.tree.unflatten(jax.tree.structure(out_shape), outputs), notes

    return run


@dataclass(frozen=True)
class _Replay:
    sites: Mapping[str, Site]
    handler: Handler
    join: Join

    def run(
        self,
        jaxpr: Jaxpr,
        consts: Sequence[Any],
        args: Sequence[Any],
        names: Mapping[Var, str],
    ) -> tuple[list[Any], Notes, list[str | None]]:
        """The outputs, the notes, and which outputs are operands that were only handed through."""
        values: dict[Var, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        values.update(zip(jaxpr.invars, args, strict=True))
        names, notes = dict(names), Notes()

        def read(var: Any) -> Any:
            return var.val if isinstance(var, Constant) else values[var]

        for eqn in jaxpr.eqns:
            given = [read(var) for var in eqn.invars]
            named = [name_of(var, names) for var in eqn.invars]
            if not any(named):
                results = bind(eqn, given)
            elif is_cast(eqn):
                names[eqn.outvars[0]] = str(named[0])
                results = given
            else:
                results, noted, handed = self._apply(eqn, given, named)
                names.update({v: n for v, n in zip(eqn.outvars, handed, strict=True) if n})
                for name, note in noted.items():
                    notes[name] = self.join(notes[name], note) if name in notes else note
            values.update(zip(eqn.outvars, results, strict=True))
        handed = [name_of(var, names) for var in jaxpr.outvars]
        return [read(var) for var in jaxpr.outvars], notes, handed

    def _apply(
        self, eqn: JaxprEqn, given: Sequence[Any], named: Sequence[str | None]
    ) -> tuple[Sequence[Any], Notes, Sequence[str | None]]:
        """An equation that takes at least one site's weight."""
        called = called_jaxpr(eqn)
        if called is not None:
            passed = {v: n for v, n in zip(called.jaxpr.invars, named, strict=True) if n}
            return self.run(called.jaxpr, called.consts, given, passed)
        if eqn.primitive.name == "scan":
            results, notes = self._scan(eqn, given, named)
            return results, notes, [None] * len(results)
        weight = next(i for i, n in enumerate(named) if n)
        name = str(named[weight])
        inputs = given[1] if self.sites[name].kind == "embedding" else given[1 - weight]
        result, note = self.handler(_product(eqn, weight, self.sites[name]), inputs, given[weight])
        return [result], {name: note}, [None]

    def _scan(
        self, eqn: JaxprEqn, given: Sequence[Any], named: Sequence[str | None]
    ) -> tuple[Sequence[Any], Notes]:
        closed, params = eqn.params["jaxpr"], eqn.params
        first, carried = scan_counts(eqn)
        consts, carry, sliced = (
            given[:first],
            given[first : first + carried],
            given[first + carried :],
        )
        passed = {v: n for v, n in zip(closed.jaxpr.invars, named, strict=True) if n}

        def body(carry: Any, sliced: Any) -> Any:
            args = [*consts, *carry, *sliced]
            outputs, notes, _ = self.run(closed.jaxpr, closed.consts, args, passed)
            return outputs[:carried], (outputs[carried:], notes)

        carry, (stacked, notes) = jax.lax.scan(
            body,
            list(carry),
            list(sliced),
            length=params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
        for name in set(named[:first]) & set(notes):  # one weight for all rounds
            rounds = [
                jax.tree.map(lambda leaf, i=i: leaf[i], notes[name])
                for i in range(params["length"])
            ]
            notes[str(name)] = functools.reduce(self.join, rounds)
        return [*carry, *stacked], notes


def _product(eqn: JaxprEqn, weight: int, site: Site) -> Product:
    numbers = eqn.params["dimension_numbers"]
    result: Any = eqn.outvars[0].aval

    def run(inputs: jax.Array, weights: jax.Array, dtype: Any) -> jax.Array:
        if site.kind == "embedding":
            params = dict(eqn.params)
            if not jnp.issubdtype(weights.dtype, jnp.floating):
                params["fill_value"] = 0  # past the end; whole numbers have no NaN
            found = eqn.primitive.bind(weights, inputs, **params)
            return found.astype(dtype)  # type: ignore[no-any-return]
        operands = (inputs, weights) if weight == 1 else (weights, inputs)
        params = {**eqn.params, "preferred_element_type": jnp.dtype(dtype)}
        return eqn.primitive.bind(*operands, **params)  # type: ignore[no-any-return]

    def spread(scales: jax.Array) -> jax.Array:
        if site.kind == "embedding":
            shape = [1] * len(result.shape)
            for axis, length in zip(numbers.offset_dims, scales.shape[1:], strict=True):
                shape[axis] = length
            return scales.reshape(shape)
        if site.kind == "convolution":
            shape = [1] * len(site.shape)
            shape[numbers.out_spec[1]] = scales.size
            return scales.reshape(shape)
        batch = numbers[1][weight]
        free = [i for i in range(len(site.shape)) if i not in (*site.axes, *batch)]
        ordered = jnp.transpose(scales, (*batch, *free, *site.axes))
        others = len(result.shape) - len(batch) - len(free)
        lengths = [scales.shape[i] for i in batch], [scales.shape[i] for i in free], [1] * others
        last, middle = (1, 2) if weight == 1 else (2, 1)
        return ordered.reshape(*lengths[0], *lengths[middle], *lengths[last])

    def inputs_axis(axis: int) -> int:
        if site.kind == "convolution":
            order = {w: x for x, w in zip(numbers.lhs_spec[1:], numbers.rhs_spec[1:], strict=True)}
            return int(order[axis])
        contracted = numbers[0]
        return int(contracted[1 - weight][contracted[weight].index(axis)])

    operand: Any = eqn.invars[weight].aval
    return Product(
        site=site,
        run=run,
        spread=spread,
        inputs_axis=inputs_axis,
        dtype=result.dtype,
        weight_dtype=operand.dtype,
    )
