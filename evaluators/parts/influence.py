"""Which parameters of a space decide what stands in a slot of the model."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

_ABSENT = None

Key = tuple[Hashable, ...]


class Influence:
    """What a slot holds, as a table over the few parameters that decide it; learned from examples.

    Two candidates that agree on these parameters and yet differ in the slot show that one is
    missing: the one that settles most such conflicts is added, until there is none.
    """

    def __init__(self) -> None:
        self.parameters: tuple[str, ...] = ()
        """That decide the slot, as far as was seen."""
        self._seen: list[tuple[dict[str, Any], str | None]] = []
        self._table: dict[Key, str | None] = {}

    def add(self, candidate: Mapping[str, Any], held: str | None) -> None:
        """Learn from a candidate.

        Args:
            candidate: its values.
            held: what stands in the slot; None: the model has no such slot.
        """
        key = self.key(candidate)
        self._seen.append((dict(candidate), held))
        if self._table.setdefault(key, held) == held:
            return
        while (conflict := self._conflict()) is not None:
            self._add_parameter(*conflict)
        for name in self.parameters:  # one that was taken early may have become needless
            before = self.parameters
            self.parameters = tuple(p for p in before if p != name)
            if self._conflicts():
                self.parameters = before
        self._table = {self.key(c): h for c, h in self._seen}

    def find(self, candidate: Mapping[str, Any]) -> str | None:
        """What stands in the slot. Raises KeyError where no example says."""
        return self._table[self.key(candidate)]

    def key(self, candidate: Mapping[str, Any]) -> Key:
        """The values that decide the slot."""
        return tuple(candidate.get(name, _ABSENT) for name in self.parameters)

    def _conflict(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Two examples that agree on the parameters and differ in the slot."""
        first: dict[Key, tuple[dict[str, Any], str | None]] = {}
        nearest: tuple[dict[str, Any], dict[str, Any]] | None = None
        for candidate, held in self._seen:
            known, other = first.setdefault(self.key(candidate), (candidate, held))
            if other != held and (
                nearest is None or len(_differing(known, candidate)) < len(_differing(*nearest))
            ):
                nearest = known, candidate
        return nearest

    def _add_parameter(self, one: dict[str, Any], other: dict[str, Any]) -> None:
        before = self.parameters

        def left(name: str) -> int:
            self.parameters = (*before, name)
            count = self._conflicts()
            self.parameters = before
            return count

        options = sorted(_differing(one, other) - set(before))
        if not options:
            raise ValueError(f"equal candidates differ in a slot: {one}")
        self.parameters = (*before, min(options, key=left))

    def _conflicts(self) -> int:
        held: dict[Key, set[str | None]] = {}
        for candidate, each in self._seen:
            held.setdefault(self.key(candidate), set()).add(each)
        return sum(len(found) - 1 for found in held.values())


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    return {n for n in {*one, *other} if one.get(n, _ABSENT) != other.get(n, _ABSENT)}


def merged(order: list[str], further: list[str]) -> list[str]:
    """An order with what it lacks of another one, each after what it follows there."""
    found = list(order)
    at = 0
    for name in further:
        if name in found:
            at = found.index(name) + 1
        else:
            found.insert(at, name)
            at += 1
    return found
