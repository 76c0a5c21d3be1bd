"""Views: a weight in another layout, on its way from its array to the product that uses it.

Transposing, reshaping, slicing, reversing, repeating and joining weights moves numbers, and changes
none. Whatever stands beside a weight with its rank (codes, or scales of length 1 along the axes
that share them) is moved likewise. A factor that is one number for the whole weight is kept apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

Axis = tuple[tuple[frozenset[int], int], ...]
"""Of what an axis consists, the major part first: (axes of the stored weight, length)."""

Shape = tuple[int, ...]
Factor = Callable[[jax.Array], jax.Array]
Leaf = Callable[[jax.Array], jax.Array]


@dataclass(frozen=True, kw_only=True)
class View:
    """A value of a program that is one weight in some layout.

    Args:
        name: of the weight; None: of an array that is no weight, beside which one is joined.
        axes: of the value.
        operand: a pytree of arrays that take part in the layout: those with the rank of the value.
            Each has its lengths, or shorter ones where neighbours share a number. None: only
            shapes are looked at.
        stored: the shape of the weight.
        stack: how many leading axes of the weight scans took slices along, with nothing else done.
        fresh: whether it is the weight, or such a slice of it, with its axes as they are.
        lone: axes of the weight that are each an axis of its own, whole, all the way.
        merged: axes of the weight that were one axis on the way.
        factors: numbers by which the weight is multiplied, as functions, the first one first.
    """

    name: str | None
    axes: tuple[Axis, ...]
    operand: Any = None
    stored: Shape
    stack: int = 0
    fresh: bool = True
    lone: frozenset[int] = frozenset()
    merged: frozenset[frozenset[int]] = frozenset()
    factors: tuple[Factor, ...] = ()

    @classmethod
    def of(cls, name: str | None, shape: Shape, operand: Any = None) -> View:
        """A weight as it is stored."""
        axes = tuple(((frozenset({i}), n),) for i, n in enumerate(shape))
        lone = frozenset(range(len(shape)))
        return cls(name=name, axes=axes, operand=operand, stored=tuple(shape), lone=lone)

    @property
    def shape(self) -> Shape:
        """Of the value."""
        return tuple(math.prod(length for _, length in axis) for axis in self.axes)

    def origin(self, axis: int) -> frozenset[int]:
        """The axes of the stored weight along which one goes on an axis of the value."""
        return frozenset().union(*(stored for stored, _ in self.axes[axis]))

    def moved(self, axes: Sequence[Axis], leaf: Leaf | None = None) -> View:
        """The view with other axes.

        Args:
            axes: of the new value.
            leaf: moves an array of the value's rank; None: nothing is moved.
        """
        lone = {i for i in self.lone if ((frozenset({i}), self.stored[i]),) in axes}
        joint = {frozenset().union(*(stored for stored, _ in axis)) for axis in axes}
        made = replace(
            self,
            axes=tuple(axes),
            fresh=False,
            lone=frozenset(lone),
            merged=self.merged | {stored for stored in joint if len(stored) > 1},
        )
        return made if leaf is None else made.mapped(leaf, len(self.axes))

    def mapped(self, leaf: Leaf, rank: int | None = None) -> View:
        """The view with other arrays in it, where these have the rank of the value."""
        rank = len(self.axes) if rank is None else rank
        apply = lambda a: leaf(a) if a.ndim == rank else a  # noqa: E731
        return replace(self, operand=jax.tree.map(apply, self.operand))

    def sliced(self, operand: Any) -> View:
        """What a scan takes of it in one round, where nothing else was done to it before."""
        return replace(
            self,
            axes=self.axes[1:],
            operand=operand,
            stack=self.stack + 1,
            lone=self.lone - {self.stack},
        )


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A value of a program that is made of several, one after the other along an axis."""

    axis: int
    parts: tuple[Held, ...]

    @property
    def shape(self) -> Shape:
        """Of the value."""
        first = list(self.parts[0].shape)
        first[self.axis] = sum(part.shape[self.axis] for part in self.parts)
        return tuple(first)


Held = View | Joined
"""What a value of a program holds of the weights."""


def views_in(held: Held | None) -> list[View]:
    """All views of weights in a value."""
    if held is None:
        return []
    if isinstance(held, View):
        return [held] if held.name is not None else []
    return [view for part in held.parts for view in views_in(part)]


# Single layouts -----------------------------------------------------------------------------------


def transpose(held: Held, order: Sequence[int]) -> Held:
    """The axes in another order."""
    if isinstance(held, Joined):
        parts = tuple(transpose(part, order) for part in held.parts)
        return Joined(axis=list(order).index(held.axis), parts=parts)
    return held.moved([held.axes[i] for i in order], lambda a: jnp.transpose(a, order))


def squeeze(held: Held, gone: Sequence[int]) -> Held:
    """Without some axes of length 1."""
    stays = [i for i in range(len(held.shape)) if i not in gone]
    if isinstance(held, Joined):
        parts = tuple(squeeze(part, gone) for part in held.parts)
        return Joined(axis=stays.index(held.axis), parts=parts)
    return held.moved([held.axes[i] for i in stays], lambda a: jnp.squeeze(a, tuple(gone)))


def broadcast(held: Held, shape: Shape, places: Sequence[int]) -> Held:
    """With new axes, or repeated along axes of length 1; as `broadcast_in_dim` does.

    Args:
        held: what is repeated.
        shape: of the new value.
        places: where each axis of the value is in it.
    """
    if isinstance(held, Joined):
        along = places[held.axis]
        parts = tuple(
            broadcast(part, (*shape[:along], part.shape[held.axis], *shape[along + 1 :]), places)
            for part in held.parts
        )
        return Joined(axis=along, parts=parts)
    axes: list[Axis] = [((frozenset(), n),) for n in shape]
    for axis, (place, old) in zip(held.axes, zip(places, held.shape, strict=True), strict=True):
        if old == shape[place]:
            axes[place] = axis

    def leaf(array: jax.Array) -> jax.Array:
        lengths = [1] * len(shape)
        for i, place in enumerate(places):
            lengths[place] = array.shape[i]
        return jnp.reshape(array, lengths)

    def weight(array: jax.Array) -> jax.Array:
        found = leaf(array)
        full = array.shape == before
        return jnp.broadcast_to(found, shape) if full else found

    before = held.shape
    return held.moved(axes, weight)


def reshape(held: Held, shape: Shape) -> Held | None:
    """In row-major order; None where joined parts would be torn."""
    if isinstance(held, Joined):
        return _reshape_joined(held, shape)
    if shape == held.shape:
        return held
    axes = _regrouped(held.axes, shape)
    before = held.shape
    old = {axis: i for i, axis in enumerate(held.axes) if math.prod(n for _, n in axis) > 1}

    def leaf(array: jax.Array) -> jax.Array:
        if array.shape == before:
            return jnp.reshape(array, shape)
        shared = frozenset().union(
            *(held.origin(i) for i, n in enumerate(before) if array.shape[i] == 1 < n)
        )
        lengths = []
        for axis, length in zip(axes, shape, strict=True):
            if axis in old:
                lengths.append(array.shape[old[axis]])
            else:
                reduced = all(stored <= shared for stored, _ in axis)
                lengths.append(1 if reduced else length)
        return jnp.reshape(array, lengths)

    return held.moved(axes, leaf)


def _regrouped(axes: Sequence[Axis], shape: Shape) -> list[Axis]:
    """The parts of all axes in row-major order, dealt out to axes of other lengths."""
    rest = [part for axis in axes for part in axis if part[1] != 1]
    found: list[Axis] = []
    for length in shape:
        parts = []
        while length > 1:
            (stored, size), *others = rest
            if length % size == 0:
                parts.append((stored, size))
                rest, length = others, length // size
            elif size % length == 0:
                parts.append((stored, length))
                rest, length = [(stored, size // length), *others], 1
            else:  # the two do not nest: from here on they are one
                rest = [(stored | others[0][0], size * others[0][1]), *others[1:]]
        found.append(tuple(parts))
    return found


def _reshape_joined(held: Joined, shape: Shape) -> Held | None:
    before, inner = math.prod(held.shape[: held.axis]), math.prod(held.shape[held.axis + 1 :])
    for axis in range(len(shape)):
        if math.prod(shape[:axis]) != before:
            continue
        each = math.prod(shape[axis + 1 :])
        sizes = [part.shape[held.axis] * inner for part in held.parts]
        if each == 0 or any(size % each for size in sizes):
            continue
        parts = [
            reshape(part, (*shape[:axis], size // each, *shape[axis + 1 :]))
            for part, size in zip(held.parts, sizes, strict=True)
        ]
        whole = tuple(part for part in parts if part is not None)
        return Joined(axis=axis, parts=whole) if len(whole) == len(parts) else None
    return None


def cut(held: Held, starts: Shape, ends: Shape, steps: Shape) -> Held | None:
    """A part of the indices of each axis; None where nothing is left."""
    if isinstance(held, Joined):
        return _cut_joined(held, starts, ends, steps)
    lengths = [len(range(*each)) for each in zip(starts, ends, steps, strict=True)]
    before = held.shape
    if tuple(lengths) == before:
        return held

    def leaf(array: jax.Array) -> jax.Array:
        whole = [have == want for have, want in zip(array.shape, before, strict=True)]
        return jax.lax.slice(
            array,
            [start if w else 0 for start, w in zip(starts, whole, strict=True)],
            [end if w else n for end, w, n in zip(ends, whole, array.shape, strict=True)],
            [step if w else 1 for step, w in zip(steps, whole, strict=True)],
        )

    return held.moved(_shortened(held, lengths), leaf)


def _shortened(view: View, lengths: Sequence[int]) -> list[Axis]:
    return [
        axis if old == new else ((view.origin(i), new),)
        for i, (axis, old, new) in enumerate(zip(view.axes, view.shape, lengths, strict=True))
    ]


def _cut_joined(held: Joined, starts: Shape, ends: Shape, steps: Shape) -> Held | None:
    axis, offset, parts = held.axis, 0, []
    taken = range(starts[axis], ends[axis], steps[axis])
    for part in held.parts:
        length = part.shape[axis]
        here = [i - offset for i in taken if offset <= i < offset + length]
        offset += length
        if not here:
            continue
        first, last = list(starts), list(ends)
        first[axis], last[axis] = here[0], here[-1] + 1
        piece = cut(part, tuple(first), tuple(last), steps)
        if piece is None:
            return None
        parts.append(piece)
    if len(parts) < 2:
        return parts[0] if parts else None
    return Joined(axis=axis, parts=tuple(parts))


def cut_at(held: Held, starts: Sequence[Any], lengths: Shape) -> Held | None:
    """A part of the indices of each axis from traced places on; None where parts would be torn."""
    if isinstance(held, Joined):
        if lengths[held.axis] != held.shape[held.axis]:
            return None
        parts = []
        for part in held.parts:
            size = list(lengths)
            size[held.axis] = part.shape[held.axis]
            begin = [0 if i == held.axis else start for i, start in enumerate(starts)]
            piece = cut_at(part, begin, tuple(size))
            if piece is None:
                return None
            parts.append(piece)
        return Joined(axis=held.axis, parts=tuple(parts))
    before = held.shape

    def leaf(array: jax.Array) -> jax.Array:
        cuts = [
            have == want != new
            for have, want, new in zip(array.shape, before, lengths, strict=True)
        ]
        return jax.lax.dynamic_slice(
            array,
            [s if c else jnp.zeros_like(s) for s, c in zip(starts, cuts, strict=True)],
            [new if c else n for new, c, n in zip(lengths, cuts, array.shape, strict=True)],
        )

    return held.moved(_shortened(held, lengths), leaf)


def reverse(held: Held, axes: Sequence[int]) -> Held:
    """Some axes the other way round."""
    if isinstance(held, Joined):
        parts = tuple(reverse(part, axes) for part in held.parts)
        return Joined(axis=held.axis, parts=parts[::-1] if held.axis in axes else parts)
    return held.moved(held.axes, lambda a: jnp.flip(a, tuple(axes)))


def at(held: Held, index: Any) -> Held | None:
    """One entry along the first axis; `index` may be traced, but not into joined parts."""
    shape = held.shape
    if isinstance(index, int):
        starts, ends = (index, *[0] * (len(shape) - 1)), (index + 1, *shape[1:])
        found = cut(held, starts, ends, (1,) * len(shape))
    else:
        nought = [jnp.zeros_like(index)] * (len(shape) - 1)
        found = cut_at(held, [index, *nought], (1, *shape[1:]))
    return None if found is None else _without_first(found)


def _without_first(held: Held) -> Held | None:
    if isinstance(held, Joined) and held.axis == 0:
        return None
    return squeeze(held, (0,))


# Equations ----------------------------------------------------------------------------------------


def through(
    eqn: JaxprEqn, held: Sequence[Held | None], given: Sequence[Any]
) -> list[Held | None] | None:
    """What the results of an equation hold, where it only changes the layout.

    Args:
        eqn: takes at least one value that holds a weight.
        held: what each operand holds; None: nothing.
        given: the values of operands that hold nothing; None, where only shapes are looked at.

    Returns:
        For each result what it holds; None: the equation does more than that.
    """
    name = eqn.primitive.name
    if name in ("concatenate", "stack"):
        return [_joined(eqn, held, given)]
    if name in ("mul", "div", "neg"):
        return _multiplied(eqn, held, given)
    if held[0] is None or any(other is not None for other in held[1:]):
        return None
    found = _layout(eqn, held[0], given)
    return None if found is None or any(one is None for one in found) else found


def _layout(eqn: JaxprEqn, held: Held, given: Sequence[Any]) -> list[Held | None] | None:
    name, params = eqn.primitive.name, eqn.params
    if name == "convert_element_type" and is_cast(eqn):
        return [
            _each(
                held, lambda v: v if v.name else v.mapped(lambda a: a.astype(params["new_dtype"]))
            )
        ]
    if name in ("copy", "copy_p"):
        return [held]
    if name == "stop_gradient":
        return [_each(held, lambda v: replace(v, operand=jax.lax.stop_gradient(v.operand)))]
    if name == "transpose":
        return [transpose(held, params["permutation"])]
    if name == "squeeze":
        return [squeeze(held, [i % len(held.shape) for i in params["dimensions"]])]
    if name == "rev":
        return [reverse(held, params["dimensions"])]
    if name == "reshape" and params["dimensions"] is None:
        return [reshape(held, tuple(params["new_sizes"]))]
    if name == "broadcast_in_dim" and len(eqn.invars) == 1:
        return [broadcast(held, tuple(params["shape"]), params["broadcast_dimensions"])]
    if name == "slice":
        steps = params["strides"] or (1,) * len(held.shape)
        return [
            cut(held, tuple(params["start_indices"]), tuple(params["limit_indices"]), tuple(steps))
        ]
    if name == "dynamic_slice":
        return [cut_at(held, given[1:], tuple(params["slice_sizes"]))]
    if name == "split":
        return _split(held, params["axis"], [int(n) for n in params["sizes"]])
    if name == "unstack":  # what iterating over an array is, from JAX 0.11
        slices = _split(held, params["axis"], [1] * held.shape[params["axis"]])
        return [None if one is None else squeeze(one, [params["axis"]]) for one in slices]
    return None


def is_cast(eqn: JaxprEqn) -> bool:
    """Whether it only changes the precision; to integers would round."""
    return eqn.primitive.name == "convert_element_type" and bool(
        jnp.issubdtype(eqn.params["new_dtype"], jnp.floating)
    )


def _each(held: Held, change: Callable[[View], View]) -> Held:
    if isinstance(held, Joined):
        return replace(held, parts=tuple(_each(part, change) for part in held.parts))
    return change(held)


def _split(held: Held, axis: int, sizes: Sequence[int]) -> list[Held | None]:
    found, start, rank = [], 0, len(held.shape)
    for size in sizes:
        starts, ends = [0] * rank, list(held.shape)
        starts[axis], ends[axis] = start, start + size
        found.append(cut(held, tuple(starts), tuple(ends), (1,) * rank))
        start += size
    return found


def _joined(eqn: JaxprEqn, held: Sequence[Held | None], given: Sequence[Any]) -> Held:
    """Also with arrays that are no weights."""
    new = eqn.primitive.name == "stack"
    axis = eqn.params["axis" if new else "dimension"]
    parts = []
    for var, one, value in zip(eqn.invars, held, given, strict=True):
        part = View.of(None, _shape(var), value) if one is None else one
        if new:
            shape = part.shape
            places = [i if i < axis else i + 1 for i in range(len(shape))]
            part = broadcast(part, (*shape[:axis], 1, *shape[axis:]), places)
        parts.append(part)
    return Joined(axis=axis, parts=tuple(parts)) if len(parts) > 1 else parts[0]


def _shape(var: Any) -> Shape:
    return tuple(var.aval.shape)


def _multiplied(
    eqn: JaxprEqn, held: Sequence[Held | None], given: Sequence[Any]
) -> list[Held | None] | None:
    """By one number for all of the weight."""
    name = eqn.primitive.name
    which = 0 if held[0] is not None else 1
    weight = held[which]
    if weight is None or (name == "div" and which == 1):
        return None
    if name == "neg":
        return [_each(weight, lambda view: _by(view, jnp.negative))]
    other = 1 - which
    if held[other] is not None or math.prod(_shape(eqn.invars[other])) != 1:
        return None
    if _shape(eqn.outvars[0]) != weight.shape:
        return None

    def factor(array: jax.Array) -> jax.Array:
        number = jnp.reshape(jnp.asarray(given[other]), ()).astype(array.dtype)
        return array * number if name == "mul" else array / number

    return [_each(weight, lambda view: _by(view, factor))]


def _by(view: View, factor: Factor) -> View:
    if view.name is None:
        return view.mapped(factor)
    return replace(view, factors=(*view.factors, factor))
