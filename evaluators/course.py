"""How a training ran: alone, or as one lane of a program with a batch axis.

Sums over a batch of matrices are added up in another order than those over one, so the same
training ends in other bits where it shared a program with others. A journal therefore keeps how
wide the program was; copies of the lane in a program as wide give the same bits again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from paretax.errors import UsageError

MOST_LANES = 256
"""Lanes in one program at most."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A part of a training that ran in one way.

    Args:
        first: steps that were done before it.
        lanes: of the program, 1 to `MOST_LANES`; 0: it ran alone, without a batch axis.
        place: which of the lanes it was, from 0.
    """

    first: int
    lanes: int = 0
    place: int = 0

    def __post_init__(self) -> None:
        known = 0 <= self.lanes <= MOST_LANES and self.first >= 0
        if not known or not 0 <= self.place < max(1, self.lanes):
            raise ValueError(f"no training runs so: {self}")


Course = tuple[Stretch, ...]
"""The stretches of a training, in order; empty: it ran alone from its beginning to its end."""


def followed_by(course: Course, then: Stretch) -> Course:
    """A course that goes on in some way."""
    last = course[-1] if course else Stretch(first=0)
    if (then.lanes, then.place) == (last.lanes, last.place):
        return course
    return (*course, then)


def course_to_json(course: Course) -> list[list[int]]:
    """As it stands in a journal: [first, lanes, place] of each stretch."""
    return [[s.first, s.lanes, s.place] for s in course]


def course_of(detail: Mapping[str, Any]) -> Course:
    """The course that a measurement's detail tells.

    Raises:
        UsageError: it is none.
    """
    told = detail.get("lanes", ())
    try:
        course = tuple(Stretch(first=f, lanes=n, place=p) for f, n, p in told)
        in_order = all(one.first < other.first for one, other in pairwise(course))
    except (TypeError, ValueError):
        in_order = False
    if not in_order:
        raise UsageError(
            "`lanes` should be [first step, lanes of the program, place in it] of each part of "
            f"a training, in order, and the journal says {told!r}"
        )
    return course
