"""Few signatures in a batch, and no choice that starves for it.

A batch that may hold `most` sets of programs takes the signatures of as many of its proposals, and
moves the others to these. Which ones they are decides what a search gets to see: taken as they
come, a value that most batches round off to none is hardly ever tried, and a sampler that breeds
from what was tried loses it for good. So each value of each parameter that a signature holds is
owed its share of what the sampler has proposed over the whole search, and a batch takes the
signatures that pay most of what is owed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paretax.spaces import (
    BY_NAME,
    Candidate,
    Space,
    graph_choices,
    signature,
    with_signature,
)

Debts = Mapping[str, float]
"""By a parameter's value: how many more trials were to have it than have."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What is to be tried, and what the sampler had proposed.

    Args:
        candidate: to be tried.
        wanted: the sampler's; another one where it was moved to another signature.
    """

    candidate: Candidate
    wanted: Candidate

    def to_json(self) -> dict[str, Any]:
        """As the journal holds it."""
        moved = {} if self.candidate == self.wanted else {"wanted": dict(self.wanted)}
        return {"candidate": dict(self.candidate), **moved}


def owed(proposals: Iterable[Proposal]) -> Counter[str]:
    """What is owed to each value after some proposals; negative where too many had it."""
    debts: Counter[str] = Counter()
    for proposal in proposals:
        if proposal.candidate != proposal.wanted:
            debts.update(_values(proposal.wanted))
            debts.subtract(_values(proposal.candidate))
    return debts


def share(
    space: Space,
    wanted: Sequence[Candidate],
    most: int,
    debts: Debts,
    taken: Iterable[Candidate],
    rng: np.random.Generator,
) -> list[Proposal]:
    """Proposals of at most so many signatures.

    Args:
        space: of all of them.
        wanted: what the sampler proposed, all different and not taken.
        most: signatures.
        debts: of the search so far; see `owed`.
        taken: candidates that may not be proposed.
        rng: for numbers that have to be drawn anew.

    Returns:
        One for each that was wanted, in their order; without those that have no place at any of
        the signatures, as they are forbidden there, or taken.
    """
    groups = [signature(c, BY_NAME) for c in wanted]
    places = Counter(groups)
    if len(places) > most:
        places = _places(space, dict(zip(groups, wanted, strict=True)), wanted, most, debts)
    models = {g: wanted[groups.index(g)] for g in places}
    used, found = set(taken), dict[int, Proposal]()
    for i, group in enumerate(groups):  # those that can stay do
        if places[group] > 0:
            places[group] -= 1
            found[i] = Proposal(candidate=wanted[i], wanted=wanted[i])
            used.add(wanted[i])
    for i, own in enumerate(wanted):
        if i in found:
            continue
        here = set(_values(own))
        by_distance = sorted(models, key=lambda g: len(here ^ set(_values(models[g]))))
        for group in sorted(by_distance, key=lambda g: places[g] <= 0):
            moved = with_signature(space, own, models[group], BY_NAME, rng)
            if moved is not None and moved not in used:
                places[group] -= 1
                found[i] = Proposal(candidate=moved, wanted=own)
                used.add(moved)
                break
    return [found[i] for i in sorted(found)]


def _places(
    space: Space,
    models: Mapping[str, Candidate],
    wanted: Sequence[Candidate],
    most: int,
    debts: Debts,
) -> Counter[str]:
    """How many of a batch each signature gets, so that least stays owed.

    The sum of squares of what is owed to each value falls by 2 r - 1 where a place goes to a value
    that is owed r. Places are given one after another to the signature with which it falls most.
    """
    left: Counter[str] = Counter(debts)
    for candidate in wanted:
        left.update(_values(candidate))
    held = {group: _values(model) for group, model in models.items()}
    places: Counter[str] = Counter()
    for _ in wanted:
        open_ = held if len(places) < most else places
        best = max(open_, key=lambda g: sum(2 * left[v] - 1 for v in held[g]))
        places[best] += 1
        left.subtract(held[best])
    return places


def _values(candidate: Mapping[str, Any]) -> list[str]:
    """What a candidate's signature holds, value by value."""
    held = graph_choices(candidate, BY_NAME)
    return [f"{name}={json.dumps(value)}" for name, value in held.items()]
