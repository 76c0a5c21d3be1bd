"""A front that is kept up to date is the front of all trials."""

from __future__ import annotations

from random import Random

import hypothesis.strategies as st
from hypothesis import given

from paretax.evaluators import Failure, Measurement, Objective, Provenance, Reason
from paretax.results import Trial
from paretax.results.run import front
from paretax.search.standing import Standing
from paretax.spaces import Candidate

GOALS = tuple(
    Objective(name=name, unit="", direction="minimize", known_before_training=True)
    for name in ("one", "other")
)
TARGETS = {"both": GOALS, "first": GOALS[:1]}


def trial(number: int, values: tuple[int, int], fate: str) -> Trial:
    failures = {
        "valid": None,
        "rejected": Failure(reason=Reason.LIMIT_EXCEEDED, message="", violation=1.0),
        "failed": Failure(reason=Reason.DIVERGED, message=""),
        "waiting": None,
    }
    return Trial(
        number=number,
        batch=0,
        candidate=Candidate({"x": number}),
        seed=0,
        measurements=tuple(
            Measurement(objective=o.name, value=v, unit="", provenance=Provenance.MEASURED)
            for o, v in zip(GOALS, values, strict=True)
        ),
        failure=failures[fate],
        trained=fate in ("valid", "rejected"),
    )


FATES = st.sampled_from(["valid", "valid", "rejected", "failed", "waiting"])
ROWS = st.lists(st.tuples(st.tuples(st.integers(0, 5), st.integers(0, 5)), FATES), max_size=25)


@given(ROWS, st.randoms(use_true_random=False))
def test_in_any_order_of_arrival(rows: list[tuple[tuple[int, int], str]], random: Random) -> None:
    trials = [trial(number, *row) for number, row in enumerate(rows)]
    arriving = list(trials)
    random.shuffle(arriving)
    standing = Standing(TARGETS, [])
    for index, one in enumerate(arriving):
        expected = standing.would_be_on_a_front(one)
        standing.add(one)
        so_far = tuple(sorted(arriving[: index + 1], key=lambda t: t.number))
        for target, objectives in TARGETS.items():
            assert standing.front(target) == front(so_far, objectives)
        assert expected == any(one in standing.front(target) for target in TARGETS)
    fates = [fate for _, fate in rows]
    counts = {"valid": standing.valid, "rejected": standing.rejected, "failed": standing.failed}
    assert counts == {fate: fates.count(fate) for fate in counts}
    again = Standing(TARGETS, trials)
    assert all(again.front(target) == standing.front(target) for target in TARGETS)
