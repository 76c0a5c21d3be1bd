"""One contract that every sampler keeps, then what each of them promises."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from paretax.errors import UsageError
from paretax.evaluators import Evaluation, Measurement, Provenance
from paretax.search import Observation, Sampler, make_sampler, parse_config, plan, run_search
from paretax.search.samplers import SAMPLERS
from paretax.search.worker import Worker
from paretax.spaces import Candidate, Categorical, Float, Integer, Ordinal, Space

MIXED = Space(
    [
        Float("learning_rate", 1e-4, 1e-1, log=True),
        Float("sparsity", 0.0, 0.9, step=0.1),
        Integer("depth", 1, 4),
        Ordinal("width", [8, 16, 32]),
        Categorical("optimizer", ["adamw", "sgd"]),
        Categorical("quantize", [False, True]),
        Integer("bits", 2, 8, when={"quantize": True}),
    ],
    [{"optimizer": "sgd", "learning_rate": {"max": 1e-3}}, {"depth": 4, "width": 32}],
)
"""Every type of parameter, a condition, and what is forbidden."""

FORBIDDING = Space(
    [Ordinal(name, list(range(5))) for name in "ab"],
    [{"a": [3, 4]}, {"b": [1, 2, 3, 4]}],
)
"""Three candidates of 25 combinations."""

ALONE = Space([Categorical("only", ["one"])])

OPTIONS: dict[str, dict[str, Any]] = {
    "grid": {"points": 2},
    "nsga2": {"population": 6},
    "random": {},
    "tpe": {"startup": 4},
}


def make(name: str) -> Sampler:
    return make_sampler(name, OPTIONS[name])


@pytest.fixture(params=sorted(SAMPLERS))
def sampler(request: pytest.FixtureRequest) -> Sampler:
    """Each of the samplers."""
    return make(request.param)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scored(candidate: Candidate) -> Observation:
    """A valid observation with losses of the candidate's id: they differ, and repeat."""
    number = int(candidate.id[:6], 16)
    losses = (float(number % 97), float(number % 89))
    return Observation(candidate=candidate, losses=losses)


def rejected(candidate: Candidate) -> Observation:
    number = int(candidate.id[:6], 16)
    return Observation(candidate=candidate, losses=None, violation=0.1 + number % 7)


def beyond(candidate: Candidate) -> Observation:
    """Fully scored, but with a limit broken."""
    return Observation(candidate=candidate, losses=(0.0, 0.0), violation=0.5)


def failed(candidate: Candidate) -> Observation:
    return Observation(candidate=candidate, losses=None, violation=float("inf"))


def mixed(candidate: Candidate) -> Observation:
    kinds = (scored, scored, rejected, failed, beyond)
    return kinds[int(candidate.id[6:], 16) % len(kinds)](candidate)


KINDS = [scored, rejected, failed, beyond, mixed]
Kind = Callable[[Candidate], Observation]


def played(
    sampler: Sampler, space: Space, kind: Kind, batches: int = 3, count: int = 5
) -> tuple[Any, list[list[Observation]]]:
    """The state after some batches, and what was told."""
    state, told = sampler.init(space), []
    for index in range(batches):
        observations = [kind(c) for c in sampler.ask(state, count, generator(index))]
        state = sampler.tell(state, observations)
        told.append(observations)
    return state, told


def assert_in(space: Space, proposals: Sequence[Candidate]) -> None:
    for candidate in proposals:
        assert isinstance(candidate, Candidate)
        assert space.candidate(dict(candidate)) == candidate  # raises where it is not in the space


LOOKALIKES = Space([Categorical("a", [1, 1.0, True, "1"]), Float("x", 0.0, 1.0)])
"""Four choices that Python's equality takes for two."""


# The contract -------------------------------------------------------------------------------------


@pytest.mark.parametrize("best", [1, 1.0, True, "1"], ids=repr)
def test_choices_that_python_takes_for_one_are_told_apart(sampler: Sampler, best: Any) -> None:
    def told(candidate: Candidate) -> Observation:
        loss = float(type(candidate["a"]) is not type(best)) + 0.01 * float(candidate["x"])
        return Observation(candidate=candidate, losses=(loss, loss))

    state, kinds = played(sampler, LOOKALIKES, told, batches=12, count=8)
    proposed = [o.candidate["a"] for batch in kinds for o in batch]
    assert {(type(v), v) for v in proposed} == {(type(v), v) for v in (1, 1.0, True, "1")}
    if type(sampler).__name__ in ("NSGA2Sampler", "TPESampler"):  # those that learn
        late = Counter(type(c["a"]) for c in sampler.ask(state, 80, generator(99)))
        assert late.most_common(1)[0][0] is type(best)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 4, 11])
def test_proposals_are_in_the_space_and_as_many_as_asked_for(
    sampler: Sampler, kind: Kind, count: int
) -> None:
    for batches in (0, 1, 3):
        state, _ = played(sampler, MIXED, kind, batches)
        proposals = sampler.ask(state, count, generator(9))
        assert_in(MIXED, proposals)
        assert len(proposals) == count  # the space has far more


@pytest.mark.parametrize("space", [FORBIDDING, ALONE], ids=["forbidding", "alone"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_space_may_be_nearly_empty(sampler: Sampler, space: Space, kind: Kind) -> None:
    state = sampler.init(space)
    for index in range(3):
        proposals = sampler.ask(state, 4, generator(index))
        assert_in(space, proposals)
        assert len(proposals) <= 4
        assert proposals or index  # nothing was told yet, so there is something to propose
        state = sampler.tell(state, [kind(c) for c in proposals])


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_randomness_gives_the_same_proposals(sampler: Sampler, kind: Kind) -> None:
    state, _ = played(sampler, MIXED, kind)
    first = sampler.ask(state, 6, generator(1))
    assert sampler.ask(state, 6, generator(1)) == first


def test_other_randomness_gives_other_proposals(sampler: Sampler) -> None:
    state, _ = played(sampler, MIXED, scored)
    first, other = (sampler.ask(state, 6, generator(seed)) for seed in (1, 2))
    assert (first == other) == (sampler == make("grid"))  # the grid has an order of its own


@pytest.mark.parametrize("kind", KINDS)
def test_telling_makes_a_new_state_and_leaves_the_old_one(sampler: Sampler, kind: Kind) -> None:
    old, _ = played(sampler, MIXED, kind, batches=1)
    before = sampler.ask(old, 6, generator(1))
    kept = copy.deepcopy([kind(c) for c in sampler.ask(old, 6, generator(2))])
    told = copy.deepcopy(kept)
    new = sampler.tell(old, told)
    sampler.ask(new, 6, generator(3))
    assert sampler.ask(old, 6, generator(1)) == before
    assert told == kept


def test_asking_does_not_change_the_state(sampler: Sampler) -> None:
    state, _ = played(sampler, MIXED, scored)
    expected = sampler.ask(state, 6, generator(1))
    for seed in range(2, 5):
        sampler.ask(state, 3, generator(seed))
    assert sampler.ask(state, 6, generator(1)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_what_was_told(sampler: Sampler, kind: Kind) -> None:
    """So a search is resumed by telling again what the journal holds, with a new sampler."""
    state, told = played(sampler, MIXED, kind)
    again = copy.deepcopy(sampler)
    rebuilt = again.init(MIXED)
    for observations in told:
        rebuilt = again.tell(rebuilt, observations)
    assert again.ask(rebuilt, 8, generator(5)) == sampler.ask(state, 8, generator(5))


def test_nothing_may_be_told(sampler: Sampler) -> None:
    state = sampler.tell(sampler.init(MIXED), [])
    assert sampler.ask(state, 3, generator()) == sampler.ask(sampler.init(MIXED), 3, generator())


def test_nothing_may_be_asked_for(sampler: Sampler) -> None:
    state, _ = played(sampler, MIXED, scored)
    assert sampler.ask(state, 0, generator()) == []


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_any_number_of_objectives(sampler: Sampler, objectives: int) -> None:
    def kind(candidate: Candidate) -> Observation:
        losses = tuple(float(int(candidate.id[i : i + 4], 16)) for i in range(objectives))
        return Observation(candidate=candidate, losses=losses)

    state, _ = played(sampler, MIXED, kind)
    assert_in(MIXED, sampler.ask(state, 5, generator()))


def test_equal_and_huge_losses_are_accepted(sampler: Sampler) -> None:
    def kind(candidate: Candidate) -> Observation:
        huge = 1e300 if candidate["quantize"] else -1e300
        return Observation(candidate=candidate, losses=(1.0, huge))

    state, told = played(sampler, MIXED, kind)
    state = sampler.tell(state, told[0])  # the same ones again
    assert_in(MIXED, sampler.ask(state, 5, generator()))


def test_what_was_told_may_come_from_elsewhere(sampler: Sampler) -> None:
    """The engine fills a batch with random candidates where a sampler repeats itself."""
    rng = generator(7)
    observations = [mixed(MIXED.sample(rng)) for _ in range(20)]
    state = sampler.tell(sampler.init(MIXED), observations)
    assert_in(MIXED, sampler.ask(state, 5, generator()))


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_any_space(name: str, spaces: st.SearchStrategy[Space]) -> None:
    sampler = make(name)

    @given(spaces)
    def check(space: Space) -> None:
        state = sampler.init(space)
        for index in range(2):
            proposals = sampler.ask(state, 4, generator(index))
            assert_in(space, proposals)
            state = sampler.tell(state, [mixed(c) for c in proposals])

    check()


# By name ------------------------------------------------------------------------------------------


def test_a_sampler_has_its_options() -> None:
    for name, options in OPTIONS.items():
        made = make_sampler(name, options)
        for option, value in options.items():
            assert getattr(made, option) == value
    assert make_sampler("nsga2", {"population": 6}).batch == 6
    assert make_sampler("grid", {"batch": 3}).batch == 3
    assert make_sampler("grid", {}).batch is None


def test_an_unknown_sampler_or_option_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown sampler 'grit'.*'grid'"):
        make_sampler("grit", {})
    with pytest.raises(
        UsageError, match=r"unknown option 'populaton' in sampler 'nsga2'.*'population'"
    ):
        make_sampler("nsga2", {"populaton": 8})
    with pytest.raises(UsageError, match="unknown option 'seed' in sampler 'random'"):
        make_sampler("random", {"seed": 1})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("grid", {"points": v}) for v in (0, -1, 2.0, "3", True, None)),
        *(("nsga2", {"population": v}) for v in (1, 0, 8.0, "8", True, None)),
        *(("nsga2", {"crossover": v}) for v in (-0.1, 1.1, "high", True, None, float("nan"))),
        *(("nsga2", {"mutation": v}) for v in (-0.1, 1.1, "low", False, float("nan"))),
        *(("tpe", {"startup": v}) for v in (-1, 2.5, "4", True, None)),
        *((name, {"batch": v}) for name in ("grid", "random", "tpe") for v in (0, -1, 1.5, "2")),
    ],
)
def test_an_option_of_a_wrong_value_is_refused(name: str, options: dict[str, Any]) -> None:
    (value,) = options.values()
    with pytest.raises(UsageError, match=r"must be .*, got ") as caught:
        make_sampler(name, options)
    assert str(caught.value).endswith(f"got {value!r}")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("grid", {"points": 1}),
        ("nsga2", {"population": 2, "crossover": 0, "mutation": 1}),
        ("nsga2", {"crossover": 1.0, "mutation": 0.0}),
        ("tpe", {"startup": 0}),
    ],
)
def test_options_at_their_ends_work(name: str, options: dict[str, Any]) -> None:
    sampler = make_sampler(name, options)
    state, _ = played(sampler, MIXED, mixed)
    assert_in(MIXED, sampler.ask(state, 4, generator()))


# Grid ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4, 7, 1000])
def test_the_grid_is_gone_through_once(count: int) -> None:
    sampler = make("grid")
    state, found = sampler.init(MIXED), []
    while proposals := sampler.ask(state, count, generator()):
        assert len(proposals) <= count
        found += proposals
        state = sampler.tell(state, [mixed(c) for c in proposals])
    assert found == list(MIXED.grid(2))
    assert len(set(found)) == len(found) > 50


def test_the_grid_leaves_out_what_was_told_by_others() -> None:
    sampler = make("grid")
    first, second, *_ = MIXED.grid(2)
    state = sampler.tell(sampler.init(MIXED), [scored(second)])
    assert sampler.ask(state, 2, generator())[0] == first
    assert second not in sampler.ask(state, 1000, generator())


def measured(objective: str, value: float) -> Measurement:
    return Measurement(objective=objective, value=value, unit="", provenance=Provenance.MEASURED)


def test_a_search_ends_where_the_grid_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A last batch that the grid does not fill is not filled from beside the grid."""
    size = Measurement(
        objective="size",
        value=9.0,
        unit="bytes",
        provenance=Provenance.MODELLED,
        detail={"dense": 9},
    )
    accuracy = Evaluation(measurements=(measured("accuracy", 0.5),))
    monkeypatch.setattr(Worker, "score", lambda *given: Evaluation(measurements=(size,)))
    monkeypatch.setattr(Worker, "train", lambda *given: accuracy)
    monkeypatch.setattr(Worker, "test", lambda *given: accuracy)
    config = parse_config(
        {
            "task": "breast_cancer",
            "objectives": ["accuracy", "size"],
            "space": {
                "width": {"type": "int", "low": 2, "high": 64},
                "learning_rate": {"type": "float", "low": 1e-3, "high": 1e-1},
            },
            "executor": "inline",
            "sampler": {"name": "grid", "options": {"points": 3, "batch": 4}},
            "budget": {"trials": 100},
        },
        "the config",
    )
    found = run_search(plan(config), tmp_path / "run")
    baseline, *others = found.trials
    assert baseline.baseline
    expected = [c for c in config.make_space().grid(3) if c != baseline.candidate]
    assert [t.candidate for t in others] == expected


# Random -------------------------------------------------------------------------------------------


def test_random_search_does_not_look_at_what_was_told() -> None:
    sampler = make("random")
    state, _ = played(sampler, MIXED, scored)
    drawn = [MIXED.sample(generator(3)) for _ in range(1)]
    assert sampler.ask(state, 1, generator(3)) == drawn
    assert sampler.ask(sampler.init(MIXED), 1, generator(3)) == drawn
