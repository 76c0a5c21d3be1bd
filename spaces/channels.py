"""Channels: indices of weights that can be removed together, found in any traced model.

A group holds one index of every array that must go with it: the output channel of the weights that
produce it, the biases and norms on the way, and the input channel of the weights that consume it.
Residual connections, flattening, attention heads and grouped convolutions only make a group larger.
Removing is exact: the model with zeros at the removed indices and the model without these indices
compute the same.

References:
    G. Fang, X. Ma, M. Song, M. Bi Mi and X. Wang, "DepGraph: Towards Any Structural Pruning",
    CVPR 2023, arXiv:2301.12900.
    H. Li, A. Kadav, I. Durdanovic, H. Samet and H. P. Graf, "Pruning Filters for Efficient
    ConvNets", ICLR 2017, arXiv:1608.08710.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from paretax.errors import UsageError, unknown
from paretax.spaces.axis_rules import Role
from paretax.spaces.dataflow import Program, trace
from paretax.spaces.exactness import block_inexact
from paretax.spaces.sites import Arrays, Predict


@dataclass(frozen=True, kw_only=True)
class Member:
    """Where a group's index lies in an array.

    Args:
        array: a name in the parameters or the state.
        axis: of the array; it is (outer, size of the group, inner) in row-major order.
        outer: how often the group's indices are repeated.
        inner: how many neighbours each index stands for. A dense layer after a flattened image of
            H * W * C has (H * W, C, 1); heads of D features that lie in one axis have (1, H, D).
        role: "producer" for the output channels of a weight, "consumer" for an axis that a product
            sums over, "parameter" for all else (bias, scale, running mean). A weight that does both
            with one axis is a producer.
    """

    array: str
    axis: int
    outer: int
    inner: int
    role: Role


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Channels that can be removed one by one, each from all members at once.

    Args:
        name: the first weight that produces them. A later group of the same weight (the features
            inside its heads) has "#2" and so on at its end.
        kind: "heads" if attention multiplies two activations for each of them.
        size: how many there are.
        members: in the order of the parameters, then of the state.
    """

    name: str
    kind: Literal["channels", "heads"]
    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True, kw_only=True)
class Channels:
    """What can be removed from a model.

    Args:
        groups: in order of first use; each has a producer, and a product sums over it (a
            consumer's, or that of queries and keys).
        refused: weight -> why none of its output channels can be removed.
    """

    groups: tuple[ChannelGroup, ...]
    refused: Mapping[str, str]


def find_channels(predict: Predict, params: Arrays, state: Arrays, inputs: Any) -> Channels:
    """The groups of channels of a model.

    Args:
        predict: the model in inference mode.
        params: arrays or their shapes, by name.
        state: likewise; no name is among the parameters as well.
        inputs: a batch, or its shape.

    Returns:
        Groups that can be removed without changing what the other channels compute. Refused are
        weights whose channels reach the model's inputs or outputs, a reduction over them (layer
        norm, softmax), a concatenation or a slice along them, a constant, a loop, or an operation
        that has no rule.

    Raises:
        UsageError: a name that is both a parameter's and the state's.
    """
    if twice := sorted(params.keys() & state.keys()):
        raise UsageError(f"parameters and state must not share a name, got {twice[0]!r} in both")
    program = trace(predict, params, state, inputs)
    block_inexact(program, params)
    return channels_of(program)


def channels_of(program: Program) -> Channels:
    """The groups of a traced program whose atoms are blocked where they must be."""
    atoms = program.atoms
    produced: dict[int, str] = {}  # leaf -> first producer
    consumed = {leaf for axis in program.ties.paired for leaf in atoms.leaves(axis)}
    roles: dict[int, Role] = {}  # atom of a parameter's axis -> role
    reshaped: dict[tuple[str, int], Role] = {}  # weight, leaf -> role, where a layout has new atoms
    outputs: dict[str, dict[int, None]] = {}  # weight -> its output channels
    for axis, name, role in program.ties.uses:
        roles.update({atom: role for atom in axis if roles.get(atom) != "producer"})
        for leaf in atoms.leaves(axis):
            if reshaped.get((name, leaf)) != "producer":
                reshaped[name, leaf] = role
        if role == "producer":
            outputs.setdefault(name, {}).update(dict.fromkeys(atoms.leaves(axis)))
            for leaf in atoms.leaves(axis):
                produced.setdefault(leaf, name)
        else:
            consumed.update(atoms.leaves(axis))
    found = [leaf for leaf in produced if leaf in consumed and atoms.reason(leaf) is None]
    members: dict[int, list[Member]] = {leaf: [] for leaf in found}
    for name, axes in program.arrays.items():
        for i, axis in enumerate(axes):
            own = roles.get(axis[0]) if axis else None
            for leaf, outer, inner in atoms.places(axis):
                if leaf in members:
                    role = own or reshaped.get((name, leaf), "parameter")
                    member = Member(array=name, axis=i, outer=outer, inner=inner, role=role)
                    members[leaf].append(member)
    heads = {leaf for axis in program.ties.heads for leaf in atoms.leaves(axis)}
    names: dict[str, None] = {}
    groups = []
    for leaf in found:
        name, number = produced[leaf], 1
        while name in names:
            number += 1
            name = f"{produced[leaf]}#{number}"
        names[name] = None
        group = ChannelGroup(
            name=name,
            kind="heads" if leaf in heads else "channels",
            size=atoms.size(leaf),
            members=tuple(members[leaf]),
        )
        groups.append(group)
    refused = {
        name: _reason(program, leaves)
        for name, leaves in outputs.items()
        if members.keys().isdisjoint(leaves)
    }
    return Channels(groups=tuple(groups), refused=refused)


def _reason(program: Program, leaves: Iterable[int]) -> str:
    reasons = [reason for leaf in leaves if (reason := program.atoms.reason(leaf)) is not None]
    return next(iter(reasons), "no other weight is multiplied by its outputs")


# What goes ----------------------------------------------------------------------------------------


def channel_scores(group: ChannelGroup, arrays: Arrays) -> jax.Array:
    """How important each channel is: the L2 norm of all its weights, in and out.

    The norm of Li et al. (2017), over the whole group as in DepGraph. Biases and norms do not
    count.

    Args:
        group: whose channels are scored.
        arrays: the parameters, by name; may be traced.

    Returns:
        float32 (size of the group,).
    """
    total = jnp.zeros((group.size,), jnp.float32)
    for member in group.members:
        if member.role == "parameter":
            continue
        weight = jnp.asarray(arrays[member.array])
        before, after = weight.shape[: member.axis], weight.shape[member.axis + 1 :]
        split = weight.reshape((*before, member.outer, group.size, member.inner, *after))
        squares = jnp.square(split.astype(jnp.float32))
        channel = member.axis + 1
        total += squares.sum(axis=tuple(i for i in range(squares.ndim) if i != channel))
    return jnp.sqrt(total)


def channel_masks(
    groups: Iterable[ChannelGroup],
    arrays: Arrays,
    removed: Mapping[str, Any],
    *,
    block: int = 1,
) -> dict[str, jax.Array]:
    """What stays of each array when the least important channels go.

    Of equally important channels, those with the lower numbers go.

    Args:
        groups: from `find_channels`.
        arrays: at least the weights, by name; may be traced. Masks are made for those that are
            given. Apply them to parameters; a state array may stay as it is, as nothing that is
            left depends on it.
        removed: how many channels each group loses, by its name; may be traced. Groups that are not
            named lose none.
        block: channels go in blocks of so many neighbours, for hardware that wants widths to be
            multiples. A traced count that is no multiple is rounded down.

    Returns:
        Booleans that broadcast to their array, by name; False is removed. Arrays of groups that are
        not named have none.

    Raises:
        UsageError: an unknown group, a count that is negative or would empty the group, or one that
            `block` does not divide.
    """
    by_name = {group.name: group for group in groups}
    masks: dict[str, jax.Array] = {}
    for name, count in removed.items():
        if name not in by_name:
            raise unknown("group of channels", name, by_name)
        group = by_name[name]
        kept = _kept(group, arrays, count, block)
        for member in group.members:
            if member.array in arrays:
                mask = _spread(member, kept, np.ndim(arrays[member.array]))
                masks[member.array] = masks.get(member.array, jnp.array(True)) & mask
    return masks


def kept_indices(
    group: ChannelGroup, arrays: Arrays, removed: int, *, block: int = 1
) -> np.ndarray:
    """The numbers of the channels that stay, ascending; the same that `channel_masks` keeps.

    Args:
        group: whose channels go.
        arrays: the parameters, by name.
        removed: how many go.
        block: as in `channel_masks`.

    Raises:
        UsageError: as in `channel_masks`.
    """
    return np.flatnonzero(np.asarray(_kept(group, arrays, removed, block)))


def _kept(group: ChannelGroup, arrays: Arrays, removed: Any, block: int) -> jax.Array:
    """Booleans (size,): what stays."""
    if block < 1 or group.size % block:
        raise UsageError(
            f"block must divide the number of channels of {group.name!r}, {group.size}, got {block}"
        )
    if not isinstance(removed, jax.core.Tracer):
        _check(group, int(removed), block)
    scores = channel_scores(group, arrays).reshape(-1, block)
    importance = jnp.sqrt(jnp.square(scores).sum(axis=1)) if block > 1 else scores[:, 0]
    order = jnp.argsort(importance, stable=True)
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.size, dtype=order.dtype))
    return jnp.repeat((rank + 1) * block > removed, block)


def _check(group: ChannelGroup, removed: int, block: int) -> None:
    if removed >= group.size:
        raise UsageError(
            f"at least one channel of {group.name!r} must stay: removing {removed} of {group.size} "
            f"would empty it; remove at most {group.size - block}"
        )
    if removed < 0 or removed % block:
        raise UsageError(
            f"the number of channels that {group.name!r} loses must be a multiple of {block}, and "
            f"at least 0, got {removed}"
        )


def _spread(member: Member, kept: jax.Array, rank: int) -> jax.Array:
    """A group's booleans as a mask of a member's array of that rank."""
    along = jnp.tile(jnp.repeat(kept, member.inner), member.outer)
    return along.reshape([-1 if i == member.axis else 1 for i in range(rank)])
