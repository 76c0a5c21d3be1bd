"""Axes as products of atoms: which axes of a program's values are one and the same.

Every axis is an ordered list of atoms, the major one first; an axis of length 1 is the empty list.
An operation that ties two axes to each other unifies their lists. Where one of the lists has a long
atom and the other several short ones, as before and after a reshape from (H * D) to (H, D), the
long one is from then on the list of the short ones.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

Axis = tuple[int, ...]
"""The atoms of one axis, the major one first."""
Axes = tuple[Axis, ...]
"""The axes of one value."""

_MISMATCH = "its axis is split in two ways that do not fit together"


class Atoms:
    """A union-find structure over atoms, which may also be split.

    An atom that cannot lose any of its indices is blocked, with a reason in words.
    """

    def __init__(self) -> None:
        self._size: list[Any] = []  # whole numbers, or symbolic ones
        self._bound: dict[int, Axis] = {}  # to what it is equal: one atom, or several
        self._reasons: dict[int, tuple[int, str]] = {}  # with the number of the call
        self._blocked = 0

    def new(self, shape: Iterable[Any], reason: str | None = None) -> Axes:
        """Axes of new atoms; blocked if there is a reason."""
        axes: list[Axis] = []
        for length in shape:
            if length == 1:
                axes.append(())
                continue
            axes.append((len(self._size),))
            self._size.append(length)
        if reason is not None:
            self.block(axes, reason)
        return tuple(axes)

    def leaves(self, axis: Iterable[int]) -> Axis:
        """What an axis consists of, as far as is known now."""
        found: list[int] = []
        for atom in axis:
            while len(self._bound.get(atom, ())) == 1:
                atom = self._bound[atom][0]
            found.extend(self.leaves(self._bound[atom]) if atom in self._bound else (atom,))
        return tuple(found)

    def size(self, leaf: int) -> Any:
        """How many indices an atom has."""
        return self._size[leaf]

    def length(self, axis: Iterable[int]) -> Any:
        """How many indices an axis has."""
        return math.prod(self._size[leaf] for leaf in self.leaves(axis))

    def block(self, axes: Iterable[Iterable[int]], reason: str) -> None:
        """No index of these axes may go; of several reasons, the first is kept."""
        self._blocked += 1
        for axis in axes:
            for leaf in self.leaves(axis):
                self._reasons.setdefault(leaf, (self._blocked, reason))

    def reason(self, leaf: int) -> str | None:
        """Why an atom is blocked."""
        return self._reasons[leaf][1] if leaf in self._reasons else None

    def unify(self, one: Iterable[int], other: Iterable[int]) -> None:
        """Two lists of atoms of one total length are the same.

        Both are walked from the major end, as a reshape does. If the lengths do not nest (6 * 4 and
        4 * 6), what is left of both is blocked.
        """
        rest, others = self.leaves(one), self.leaves(other)
        while rest and others:
            a, b = rest[0], others[0]
            if a == b:
                rest, others = rest[1:], others[1:]
            elif self._size[a] == self._size[b]:
                self._bind(a, (b,))
            elif self._divides(a, b):
                self._split(b, a)
            elif self._divides(b, a):
                self._split(a, b)
            else:
                break
            rest, others = self.leaves(rest), self.leaves(others)
        self.block((rest, others), _MISMATCH)

    def _divides(self, a: int, b: int) -> bool:
        small, large = self._size[a], self._size[b]
        return bool(small != 0 and large % small == 0)

    def _split(self, atom: int, major: int) -> None:
        ((rest,),) = self.new((self._size[atom] // self._size[major],))
        self._bind(atom, (major, rest))

    def _bind(self, atom: int, parts: Axis) -> None:
        self._bound[atom] = parts
        if (reason := self._reasons.pop(atom, None)) is not None:
            for part in parts:
                self._reasons[part] = min(reason, self._reasons.get(part, reason))

    def shrunk(self, axes: Axes, shape: Sequence[Any], sizes: dict[int, int]) -> tuple[Any, ...]:
        """A value's shape when some atoms have other sizes.

        Args:
            axes: of the value.
            shape: of the value.
            sizes: new sizes of leaves.
        """
        return tuple(
            math.prod(sizes.get(leaf, self._size[leaf]) for leaf in leaves)
            if (leaves := self.leaves(axis)) and not sizes.keys().isdisjoint(leaves)
            else length
            for axis, length in zip(axes, shape, strict=True)
        )

    def places(self, axis: Axis) -> list[tuple[int, int, int]]:
        """(leaf, outer, inner) of each leaf of an axis: how many indices lie above and below."""
        leaves = self.leaves(axis)
        return [
            (leaf, self.length(leaves[:i]), self.length(leaves[i + 1 :]))
            for i, leaf in enumerate(leaves)
        ]


def occurrences(atoms: Atoms, axes: Axes) -> dict[int, int]:
    """How often each leaf occurs in a value."""
    counts: dict[int, int] = {}
    for axis in axes:
        for leaf in atoms.leaves(axis):
            counts[leaf] = counts.get(leaf, 0) + 1
    return counts


def flat(atoms: Atoms, axes: Collection[Axis]) -> Axis:
    """All leaves of a value in row-major order."""
    return tuple(leaf for axis in axes for leaf in atoms.leaves(axis))
