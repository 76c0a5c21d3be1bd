"""One assignment of a space's parameters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from paretax.spaces.parameters import Value


class Candidate(Mapping[str, Value]):
    """The active parameters of one point of a space, immutable and hashable.

    Made by `Space.candidate`, which brings each value into its canonical form. Two candidates
    are equal exactly when their canonical JSON is.
    """

    __slots__ = ("_values", "id", "json")

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = MappingProxyType(dict(sorted(values.items())))
        self.json = json.dumps(dict(self._values), separators=(",", ":"), allow_nan=False)
        """Canonical JSON: keys sorted, no white space, floats in Python's shortest form."""
        self.id = hashlib.sha256(self.json.encode()).hexdigest()[:12]
        """The first 48 bits of the SHA-256 of the canonical JSON, in hexadecimal."""

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(self.json)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and self.json == other.json

    def __repr__(self) -> str:
        return f"Candidate({dict(self._values)!r})"

    def __reduce__(self) -> tuple[type[Candidate], tuple[dict[str, Value]]]:
        return (Candidate, (dict(self._values),))
