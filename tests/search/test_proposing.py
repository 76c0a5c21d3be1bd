"""What holds of every batch that is proposed, whatever the space, the sampler and the bound."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from paretax.search import Observation, make_sampler
from paretax.search.proposing import bound, propose
from paretax.search.sharing import Proposal, owed
from paretax.spaces import (
    BY_NAME,
    Candidate,
    Categorical,
    Float,
    Integer,
    Ordinal,
    Parameter,
    Space,
    signature,
)

OPTIONS: dict[str, dict[str, Any]] = {
    "random": {},
    "nsga2": {"population": 6},
    "grid": {"points": 3},
}

DISCRETE = Space(
    [
        Ordinal("width", [8, 16, 32]),
        Categorical("optimizer", ["adamw", "sgd"]),
        Categorical("quantize", [False, True]),
        Categorical("qat", ["none", "ste"], when={"quantize": True}),
    ],
    [{"optimizer": "sgd", "width": 32}],
)
"""Fifteen candidates, in programs that few of them share."""


def drawn_space(seed: int) -> Space:
    """Some of these parameters, and perhaps what they forbid."""
    rng = np.random.default_rng(seed)
    some: list[Parameter] = [
        Ordinal("width", [8, 16, 32, 64]),
        Integer("depth", 1, 3),
        Categorical("optimizer", ["adamw", "sgd"]),
        Float("sparsity", 0.0, 0.8, step=0.2),
        Categorical("lookalikes", [1, True, "1"]),
    ]
    kept = [p for p in some if rng.random() < 0.7]
    quantized: list[Parameter] = [
        Categorical("quantize", [False, True]),
        Categorical("qat", ["none", "lsq"], when={"quantize": True}),
    ]
    kept += quantized if rng.random() < 0.5 else []
    forbidden: list[dict[str, Any]] = [
        {"width": 64, "optimizer": "sgd"},
        {"optimizer": "adamw", "learning_rate": {"min": 0.05}},
        {"depth": 3, "sparsity": {"max": 0.1}},
    ]
    parameters = [*kept, Float("learning_rate", 1e-3, 1e-1, log=True)]
    names = {p.name for p in parameters}
    return Space(parameters, [f for f in forbidden if names >= set(f) and rng.random() < 0.5])


def losses(candidate: Candidate) -> tuple[float, float]:
    """Two that differ from candidate to candidate."""
    number = int(candidate.id[:8], 16)
    return float(number % 97), float(number % 89)


def batches(
    space: Space, sampler: str, signatures: int | None, sizes: Sequence[int], known: Any = ()
) -> list[list[Proposal]]:
    """A search's batches of at most so many; it goes on after those that are known, to its end."""
    made = make_sampler(sampler, OPTIONS[sampler])
    planned: Any = SimpleNamespace(
        config=SimpleNamespace(seed=3, signatures=signatures), space=space, sampler=made
    )
    state, found, tried = made.init(space), list[list[Proposal]](), list[Proposal]()
    for i, size in enumerate(sizes):
        found.append(known[i] if i < len(known) else propose(planned, state, size, tried))
        if not found[-1]:
            break
        tried += found[-1]
        told = [Observation(candidate=p.candidate, losses=losses(p.candidate)) for p in found[-1]]
        state = made.tell(state, told)
    return found


SEARCHES = {
    "seed": st.integers(0, 10**6),
    "sampler": st.sampled_from(sorted(OPTIONS)),
    "signatures": st.integers(1, 5),
    "sizes": st.lists(st.integers(1, 9), min_size=2, max_size=6),
}


@given(**SEARCHES)
def test_batches_keep_to_the_space_and_the_bound(
    seed: int, sampler: str, signatures: int, sizes: list[int]
) -> None:
    space = drawn_space(seed)
    before: list[Proposal] = []
    for size, found in zip(sizes, batches(space, sampler, signatures, sizes), strict=False):
        most = bound(signatures, len(before))
        assert most is not None
        assert len(found) <= size
        assert len({signature(p.candidate, BY_NAME) for p in found}) <= most
        before += found
        for p in found:  # also not forbidden, and with the parameters that exist beside its others
            assert space.candidate(dict(p.candidate)) == p.candidate
            assert space.candidate(dict(p.wanted)) == p.wanted
    assert len({p.candidate for p in before}) == len(before)
    if sampler != "grid":  # a continuous parameter: there is always more
        assert len(before) == sum(sizes)


@given(**SEARCHES, done=st.floats(0, 0.99))
def test_a_search_that_goes_on_proposes_as_if_undisturbed(
    seed: int, sampler: str, signatures: int, sizes: list[int], done: float
) -> None:
    space = drawn_space(seed)
    whole = batches(space, sampler, signatures, sizes)
    there = whole[: round(done * len(whole))]
    journalled = [[_read(space, p.to_json()) for p in found] for found in there]
    assert batches(space, sampler, signatures, sizes, journalled) == whole


def _read(space: Space, written: dict[str, Any]) -> Proposal:
    candidate = space.candidate(written["candidate"])
    wanted = written.get("wanted")
    return Proposal(
        candidate=candidate, wanted=candidate if wanted is None else space.candidate(wanted)
    )


@given(**SEARCHES)
def test_what_is_owed_stays_within_a_batch(
    seed: int, sampler: str, signatures: int, sizes: list[int]
) -> None:
    """No value gains or loses more trials than a batch or two hold, however long the search."""
    found = batches(drawn_space(seed), sampler, signatures, [*sizes, *([max(sizes)] * 6)])
    debts = owed(p for batch in found for p in batch)
    assert all(abs(count) <= 2 * max(sizes) for count in debts.values()), debts


@pytest.mark.parametrize("signatures", [1, 2, None])
@pytest.mark.parametrize("sampler", sorted(OPTIONS))
def test_no_candidate_is_out_of_reach(sampler: str, signatures: int | None) -> None:
    space = DISCRETE
    found = batches(space, sampler, signatures, [4] * 30)
    assert not found[-1]  # it knows that nothing is left
    everything = set(space.grid(10))
    assert len(everything) == 15
    assert {p.candidate for batch in found for p in batch} == everything


def test_the_first_batch_may_have_more_signatures() -> None:
    assert [bound(2, tried) for tried in (0, 1, 2, 100)] == [8, 8, 2, 2]
    assert bound(None, 0) is None
    space = drawn_space(1)
    first, second = batches(space, "random", 2, [30, 30])
    counts = [len({signature(p.candidate, BY_NAME) for p in batch}) for batch in (first, second)]
    assert counts == [8, 2]
