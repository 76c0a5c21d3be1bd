"""Running a traced model again, with the product at each of its sites done otherwise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Var
from jax.extend.core import Literal as Constant

from paretax.spaces.derivatives import is_custom
from paretax.spaces.jax_compat import bind, scan_counts
from paretax.spaces.own_derivatives import OwnDerivatives
from paretax.spaces.sites import Arrays, Site, called_jaxpr, kind_of, needed, summed_axes
from paretax.spaces.views import Held, Joined, View, at, through


@dataclass(frozen=True, kw_only=True)
class Product:
    """A site's multiplication, as the traced program does it.

    Args:
        site: whose weight is multiplied, with shape and axes as the product takes it: one slice of
            it inside a scan, and in another layout than it is stored where the model changes that.
        run: (inputs, weight, dtype of the result) -> the product, with the model's own constant
            factors of the weight. A look-up takes whole numbers as inputs.
        bare: likewise, without those factors: for codes.
        spread: the weight's scales (rank of the weight, length 1 along `axes`), times those
            factors -> the same numbers in a shape that broadcasts against the product.
        inputs_axis: the axis of the inputs that is summed against an axis of the weight.
        dtype: of the result that the program goes on with.
        weight_dtype: in which the program multiplies the weight.
    """

    site: Site
    run: Callable[[jax.Array, jax.Array, Any], jax.Array]
    bare: Callable[[jax.Array, jax.Array, Any], jax.Array]
    spread: Callable[[jax.Array], jax.Array]
    inputs_axis: Callable[[int], int]
    dtype: Any
    weight_dtype: Any

    @property
    def is_convolution(self) -> bool:
        """Whether libraries of convolutions do it."""
        return self.site.kind == "convolution"


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
    own: OwnDerivatives | None = None,
) -> Callable[..., tuple[Any, Notes]]:
    """The model with the product at each site done by `handler`.

    Args:
        function: (params, *rest) -> outputs; the model.
        sites: from `find_sites`; other weights are used as the model does.
        handler: does a site's product. Its operand is whatever pytree the caller passes under the
            weight's name; a scan that slices the weight slices every array of it.
        join: makes one note of the notes of two uses of the same slice.
        own: keeps the derivatives that the model has of its own (`custom_vjp`) around a product;
            None: the result is not differentiated.

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
        args = [
            View.of(n, sites[n].shape, params[n]) if n in sites else params[n]
            for n in sorted(params)
        ]
        replay = _Replay(sites, handler, join, own)
        outputs, notes = replay.run(closed.jaxpr, closed.consts, [*args, *jax.tree.leaves(rest)])
        return jax.tree.unflatten(jax.tree.structure(out_shape), outputs), notes

    return run


@dataclass(frozen=True)
class _Replay:
    """Runs a program; values that hold a site's weight are views of its operand."""

    sites: Mapping[str, Site]
    handler: Handler
    join: Join
    own: OwnDerivatives | None

    def run(
        self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]
    ) -> tuple[list[Any], Notes]:
        """The outputs, of which some may be weights that were only handed through, and notes."""
        values: dict[Var, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        values.update(zip(jaxpr.invars, args, strict=True))
        notes = Notes()

        def read(var: Any) -> Any:
            return var.val if isinstance(var, Constant) else values[var]

        for eqn in needed(jaxpr):
            given = [read(var) for var in eqn.invars]
            if any(_is_held(value) for value in given):
                results, noted = self._apply(eqn, given)
                self._add(notes, noted)
            else:
                results = bind(eqn, given)
            values.update(zip(eqn.outvars, results, strict=True))
        return [read(var) for var in jaxpr.outvars], notes

    def _add(self, notes: Notes, more: Notes) -> None:
        for name, note in more.items():
            notes[name] = self.join(notes[name], note) if name in notes else note

    def _apply(self, eqn: JaxprEqn, given: Sequence[Any]) -> tuple[Sequence[Any], Notes]:
        """An equation that takes at least one site's weight."""
        called = called_jaxpr(eqn)
        if called is not None:
            results, notes = self.run(called.jaxpr, called.consts, given)
            if self.own is not None and is_custom(eqn):
                results = self.own.kept(eqn, given, results, notes)
            return results, notes
        if eqn.primitive.name == "scan":
            return self._scan(eqn, given)
        held = [value if _is_held(value) else None for value in given]
        moved = through(eqn, held, given)
        if moved is not None:
            return moved, Notes()
        weight = next(i for i, one in enumerate(held) if one is not None)
        inputs = given[1] if eqn.primitive.name == "gather" else given[1 - weight]
        result, notes = self._multiply(eqn, weight, given[weight], inputs)
        return [result], notes

    def _multiply(
        self, eqn: JaxprEqn, weight: int, held: Held, inputs: jax.Array
    ) -> tuple[jax.Array, Notes]:
        """The product of the inputs and a weight; with joined weights, one with each of them."""
        if isinstance(held, View) and held.name is None:
            operands = (inputs, held.operand) if weight == 1 else (held.operand, inputs)
            return bind(eqn, operands)[0], Notes()
        if isinstance(held, View):
            product = _product(eqn, weight, held, self.sites[str(held.name)], inputs)
            result, note = self.handler(product, inputs, held.operand)
            # A table that is multiplied as well is a site of these products' inputs.
            silent = product.site.kind == "embedding" != self.sites[str(held.name)].kind
            return result, {} if silent else {str(held.name): note}
        along, of_result = _places(eqn, weight, held.axis)
        results, notes, start = [], Notes(), 0
        for part in held.parts:
            length = part.shape[held.axis]
            taken = inputs
            if along is not None:
                taken = jax.lax.slice_in_dim(inputs, start, start + length, axis=along)
            start += length
            result, noted = self._multiply(eqn, weight, part, taken)
            results.append(result)
            self._add(notes, noted)
        if of_result is None:
            return functools.reduce(jnp.add, results), notes
        return jnp.concatenate(results, axis=of_result), notes

    def _scan(self, eqn: JaxprEqn, given: Sequence[Any]) -> tuple[Sequence[Any], Notes]:
        """A stack of sites is sliced with all that stands beside it; else slices are looked up."""
        closed, params = eqn.params["jaxpr"], eqn.params
        (consts, carried), length = scan_counts(eqn), params["length"]
        first = consts + carried
        fixed, carry, sliced = given[:consts], given[consts:first], given[first:]
        if any(isinstance(value, Joined) and value.axis == 0 for value in sliced):
            return self._written_out(eqn, given)
        native = [self._is_stack(value) for value in sliced]

        def body(carry: Any, taken: Any) -> Any:
            index, arrays = taken
            parts = [
                value.sliced(array) if stack else at(value, index) if _is_held(value) else array
                for value, stack, array in zip(sliced, native, arrays, strict=True)
            ]
            outputs, notes = self.run(closed.jaxpr, closed.consts, [*fixed, *carry, *parts])
            return outputs[:carried], (outputs[carried:], notes)

        arrays = [
            value.operand if stack else None if _is_held(value) else value
            for value, stack in zip(sliced, native, strict=True)
        ]
        looked_up = any(a is None for a in arrays)
        carry, (stacked, notes) = jax.lax.scan(
            body,
            list(carry),
            (jnp.arange(length, dtype=jnp.int32) if looked_up else None, arrays),
            length=length,
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
        whole = {v.name for v, stack in zip(sliced, native, strict=True) if stack}
        for name in set(notes) - whole:  # one weight for all rounds
            rounds = [jax.tree.map(lambda leaf, i=i: leaf[i], notes[name]) for i in range(length)]
            notes[name] = functools.reduce(self.join, rounds)
        return [*carry, *stacked], notes

    def _is_stack(self, value: Any) -> bool:
        return isinstance(value, View) and value.stack < self.sites[str(value.name)].stack

    def _written_out(self, eqn: JaxprEqn, given: Sequence[Any]) -> tuple[Sequence[Any], Notes]:
        """A scan over joined weights, one round after the other."""
        closed, params = eqn.params["jaxpr"], eqn.params
        (consts, carried), length = scan_counts(eqn), params["length"]
        first = consts + carried
        carry, notes = list(given[consts:first]), Notes()
        made: list[Any] = [None] * length
        for i in range(length)[:: -1 if params["reverse"] else 1]:
            taken = [at(value, i) if _is_held(value) else value[i] for value in given[first:]]
            outputs, noted = self.run(
                closed.jaxpr, closed.consts, [*given[:consts], *carry, *taken]
            )
            carry, made[i] = outputs[:carried], outputs[carried:]
            self._add(notes, noted)
        stacked = [jnp.stack(rounds) for rounds in zip(*made, strict=True)]
        return [*carry, *stacked], notes


def _is_held(value: Any) -> bool:
    return isinstance(value, View | Joined)


def _places(eqn: JaxprEqn, weight: int, axis: int) -> tuple[int | None, int | None]:
    """Where an axis of a product's weight is in the inputs and in the result; None: it is not."""
    numbers = eqn.params["dimension_numbers"]
    if eqn.primitive.name == "conv_general_dilated":
        if axis == numbers.rhs_spec[0]:
            return None, int(numbers.out_spec[1])
        return int(numbers.lhs_spec[1]), None
    contracted, batch = numbers
    for pairs, kept in ((contracted, False), (batch, True)):
        if axis in pairs[weight]:
            at_place = list(pairs[weight]).index(axis)
            return int(pairs[1 - weight][at_place]), at_place if kept else None
    taken = (*contracted[weight], *batch[weight])
    operands: Any = [var.aval for var in eqn.invars]
    free = [i for i in range(len(operands[weight].shape)) if i not in taken]
    before = len(batch[weight])
    if weight == 1:
        before += len(operands[0].shape) - len(contracted[0]) - len(batch[0])
    return None, before + free.index(axis)


def _product(eqn: JaxprEqn, weight: int, view: View, stored: Site, inputs: jax.Array) -> Product:
    numbers = eqn.params["dimension_numbers"]
    result: Any = eqn.outvars[0].aval
    axes, _ = summed_axes(eqn, weight)
    whole = [i for i in axes if view.origin(i) == {stored.inner_axis}]
    axes = (*(i for i in axes if i not in whole), *whole) if stored.whole else axes
    kind = kind_of(eqn)
    site = replace(stored, kind=kind, shape=view.shape, axes=axes, stack=0)

    def scaled(array: jax.Array) -> jax.Array:
        return functools.reduce(lambda a, factor: factor(a), view.factors, array)

    def bare(inputs: jax.Array, weights: jax.Array, dtype: Any) -> jax.Array:
        if kind == "embedding":
            params = dict(eqn.params)
            if not jnp.issubdtype(weights.dtype, jnp.floating):
                params["fill_value"] = 0  # past the end; whole numbers have no NaN
            found = eqn.primitive.bind(weights, inputs, **params)
            return found.astype(dtype)  # type: ignore[no-any-return]
        operands = (inputs, weights) if weight == 1 else (weights, inputs)
        params = {**eqn.params, "preferred_element_type": jnp.dtype(dtype)}
        return eqn.primitive.bind(*operands, **params)  # type: ignore[no-any-return]

    def run(inputs: jax.Array, weights: jax.Array, dtype: Any) -> jax.Array:
        return bare(inputs, scaled(weights), dtype)

    def spread(scales: jax.Array) -> jax.Array:
        scales = scaled(scales)
        if kind == "embedding":
            if scales.shape[0] > 1:  # of rows, as the table is multiplied by other axes
                sizes = (1, *scales.shape[1:])
                rows: jax.Array = eqn.primitive.bind(
                    scales, inputs, **{**eqn.params, "slice_sizes": sizes}
                )
                return rows
            shape = [1] * len(result.shape)
            for axis, length in zip(numbers.offset_dims, scales.shape[1:], strict=True):
                shape[axis] = length
            return scales.reshape(shape)
        if kind == "convolution":
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
        if kind == "convolution":
            order = {w: x for x, w in zip(numbers.lhs_spec[1:], numbers.rhs_spec[1:], strict=True)}
            return int(order[axis])
        contracted = numbers[0]
        return int(contracted[1 - weight][contracted[weight].index(axis)])

    operand: Any = eqn.invars[weight].aval
    return Product(
        site=site,
        run=run,
        bare=bare,
        spread=spread,
        inputs_axis=inputs_axis,
        dtype=result.dtype,
        weight_dtype=operand.dtype,
    )
