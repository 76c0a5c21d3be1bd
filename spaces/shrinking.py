"""A traced model that runs on smaller arrays, without the channels that were removed.

The user's code would build the model at its full size. Its program is traced as it is, and run
again one equation at a time on what is left of the arrays, with each shape that an equation names
adapted. Weights enter their products as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.extend.core import JaxprEqn
from jax.extend.core import Literal as Constant

from paretax.errors import UsageError, unknown
from paretax.spaces.axes import Atoms
from paretax.spaces.channels import ChannelGroup, channels_of
from paretax.spaces.dataflow import Frame, Program, trace
from paretax.spaces.exactness import block_inexact
from paretax.spaces.jax_compat import bind
from paretax.spaces.sites import Arrays, Predict

Shape = tuple[Any, ...]


def shrunk_shapes(
    groups: Iterable[ChannelGroup], counts: Mapping[str, int], shapes: Mapping[str, Any]
) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of what is left.

    Args:
        groups: from `find_channels`.
        counts: how many channels of a group stay, by its name; all, where it is not named.
        shapes: of the full arrays (or these themselves), by name.

    Raises:
        UsageError: an unknown group, or a count that is not from 1 to its size.
    """
    lengths = {name: list(array.shape) for name, array in shapes.items()}
    for group, count in _named(groups, counts):
        if not 1 <= count <= group.size:
            raise UsageError(
                f"what stays of {group.name!r} must be from 1 to {group.size}, got {count}"
            )
        for member in group.members:
            if member.array in lengths:
                axes = lengths[member.array]
                axes[member.axis] = axes[member.axis] // group.size * count
    return {
        name: jax.ShapeDtypeStruct(tuple(lengths[name]), array.dtype)
        for name, array in shapes.items()
    }


def shrink_arrays(
    groups: Iterable[ChannelGroup], kept: Mapping[str, np.ndarray], arrays: Arrays
) -> dict[str, Any]:
    """What is left of the arrays.

    Args:
        groups: from `find_channels`.
        kept: the numbers of a group's channels that stay, by its name; all, where it is not named.
        arrays: the full arrays, by name: parameters, state or both.

    Returns:
        Every array under its name; new ones where something goes.

    Raises:
        UsageError: an unknown group, or numbers that are not ascending, from 0 to the size.
    """
    stays: dict[tuple[str, int], np.ndarray] = {}
    for group, indices in _named(groups, kept):
        numbers = np.asarray(indices)
        if (
            numbers.ndim != 1
            or not np.issubdtype(numbers.dtype, np.integer)
            or len(numbers) == 0
            or numbers[0] < 0
            or numbers[-1] >= group.size
            or (np.diff(numbers) <= 0).any()
        ):
            raise UsageError(
                f"what stays of {group.name!r} must be ascending whole numbers, at least one, from "
                f"0 to {group.size - 1}, got {indices}"
            )
        flags = np.zeros(group.size, bool)
        flags[numbers] = True
        for member in group.members:
            along = np.tile(np.repeat(flags, member.inner), member.outer)
            key = member.array, member.axis
            stays[key] = stays.get(key, np.ones(along.size, bool)) & along
    left = dict(arrays)
    for (name, axis), flags in stays.items():
        if name in left:
            index = (slice(None),) * axis + (np.flatnonzero(flags),)
            left[name] = left[name][index]
    return left


def _named(
    groups: Iterable[ChannelGroup], values: Mapping[str, Any]
) -> Iterable[tuple[ChannelGroup, Any]]:
    by_name = {group.name: group for group in groups}
    for name, value in values.items():
        if name not in by_name:
            raise unknown("group of channels", name, by_name)
        yield by_name[name], value


def shrink(
    predict: Predict,
    params: Arrays,
    state: Arrays,
    inputs: Any,
    groups: Iterable[ChannelGroup],
    counts: Mapping[str, int],
) -> Predict:
    """The model without the removed channels.

    Args:
        predict: the full model in inference mode.
        params: shapes of its full parameters, by name (or arrays).
        state: likewise.
        inputs: the shape of a batch; any batch size.
        groups: from `find_channels`.
        counts: how many channels of a group stay, by its name; all, where it is not named.

    Returns:
        A function like `predict` over the arrays of `shrink_arrays`. It may be traced, exported
        with a symbolic batch size, and be looked through by `find_sites`. It computes what
        `predict` does with zeros at the removed channels. Calls inside (jit, custom derivatives)
        that meet a smaller value are written out.

    Raises:
        UsageError: an unknown group, a count that is not from 1 to its size, or groups of another
            model; when it is called, arrays of other shapes.
    """
    groups = tuple(groups)
    full = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in {**params, **state}.items()}
    left = {name: s.shape for name, s in shrunk_shapes(groups, counts, full).items()}
    chosen = {
        group.name: group for group in groups if counts.get(group.name) not in (None, group.size)
    }

    def prepare(params: Arrays, state: Arrays, inputs: Any) -> tuple[Program, dict[int, int]]:
        program = trace(predict, params, state, inputs)
        block_inexact(program, params)
        return program, _sizes(program, chosen.values(), counts)

    prepare(params, state, inputs)

    def run(params: Arrays, state: Arrays, inputs: Any) -> Any:
        shapes = [
            {name: _at_full_size(name, array, left, full) for name, array in arrays.items()}
            for arrays in (params, state)
        ]
        program, sizes = prepare(shapes[0], shapes[1], inputs)
        args = jax.tree.leaves((params, state, inputs))
        outputs = _Run(program.atoms, sizes).run(program.frame, args)
        return jax.tree.unflatten(program.outputs, outputs)

    return run


def _at_full_size(
    name: str, array: Any, left: Mapping[str, Shape], full: Mapping[str, jax.ShapeDtypeStruct]
) -> jax.ShapeDtypeStruct:
    if name not in left:
        raise unknown("array", name, left)
    if np.shape(array) != left[name]:
        raise UsageError(
            f"array {name!r} must have the shape that is left of it, {left[name]}, got "
            f"{np.shape(array)}: cut it with shrink_arrays"
        )
    return jax.ShapeDtypeStruct(full[name].shape, array.dtype)


def _sizes(
    program: Program, groups: Iterable[ChannelGroup], counts: Mapping[str, int]
) -> dict[int, int]:
    """The new sizes of the atoms that the groups are."""
    now = {frozenset(group.members) for group in channels_of(program).groups}
    sizes = {}
    for group in groups:
        if frozenset(group.members) not in now:
            raise UsageError(
                f"the groups must be those of this model, and {group.name!r} is none of them: find "
                "them with find_channels"
            )
        member = group.members[0]
        for leaf, outer, inner in program.atoms.places(program.arrays[member.array][member.axis]):
            if (outer, inner) == (member.outer, member.inner):
                sizes[leaf] = counts[group.name]
    return sizes


class _Run:
    """Runs a program with some atoms smaller."""

    def __init__(self, atoms: Atoms, sizes: dict[int, int]) -> None:
        self._atoms = atoms
        self._sizes = sizes

    def run(self, frame: Frame, args: Any) -> list[Any]:
        jaxpr = frame.jaxpr
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, frame.consts, strict=True))
        values.update(zip(jaxpr.invars, args, strict=True))

        def read(var: Any) -> Any:
            return var.val if isinstance(var, Constant) else values[var]

        for i, eqn in enumerate(frame.eqns):
            given = [read(var) for var in eqn.invars]
            before = [self._shape(frame, var) for var in eqn.invars]
            after = [self._shape(frame, var) for var in eqn.outvars]
            smaller = before != _shapes(eqn.invars) or after != _shapes(eqn.outvars)
            if smaller and i in frame.called:
                results = self.run(frame.called[i], given)
            else:
                results = bind(eqn, given, **(_adapted(eqn, before, after) if smaller else {}))
            values.update(zip(eqn.outvars, results, strict=True))
        return [read(var) for var in jaxpr.outvars]

    def _shape(self, frame: Frame, var: Any) -> Shape:
        (shape,) = _shapes([var])
        if isinstance(var, Constant):
            return shape
        return self._atoms.shrunk(frame.axes[var], shape, self._sizes)


def _shapes(variables: Iterable[Any]) -> list[Shape]:
    return [tuple(getattr(var.aval, "shape", ())) for var in variables]


def _adapted(eqn: JaxprEqn, before: list[Shape], after: list[Shape]) -> dict[str, Any]:
    """The parameters of an equation that name a shape, for its smaller operands and result."""
    name, params = eqn.primitive.name, eqn.params
    if name == "reshape":
        return {"new_sizes": after[0]}
    if name in ("broadcast_in_dim", "iota"):
        return {"shape": after[0]}
    if name in ("slice", "dynamic_slice", "gather"):
        key = "limit_indices" if name == "slice" else "slice_sizes"
        whole = _shapes(eqn.invars)[0]
        numbers = zip(params[key], before[0], whole, strict=True)
        return {key: tuple(new if new != old else n for n, new, old in numbers)}
    if name == "conv_general_dilated" and params["feature_group_count"] > 1:
        spec = params["dimension_numbers"]
        channels = before[0][spec.lhs_spec[1]]
        return {"feature_group_count": channels // before[1][spec.rhs_spec[1]]}
    return {}
