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
from paretax.results.pareto import nondominated, relative_hypervolume
from paretax.search import Observation, Sampler, make_sampler, parse_config, plan, run_search
from paretax.search.samplers import SAMPLERS, NSGA2Sampler
from paretax.search.samplers.nsga2 import crowding, survivors
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


# The contract -------------------------------------------------------------------------------------


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
        detail={"dense_float32": 9},
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
    assert [t.candidate for t in found.trials] == list(config.make_space().grid(3))


# Random -------------------------------------------------------------------------------------------


def test_random_search_does_not_look_at_what_was_told() -> None:
    sampler = make("random")
    state, _ = played(sampler, MIXED, scored)
    drawn = [MIXED.sample(generator(3)) for _ in range(1)]
    assert sampler.ask(state, 1, generator(3)) == drawn
    assert sampler.ask(sampler.init(MIXED), 1, generator(3)) == drawn


# NSGA-II ------------------------------------------------------------------------------------------


def naive_crowding(losses: list[tuple[float, ...]]) -> list[float]:
    """Deb et al. (2002), the procedure crowding-distance-assignment, line by line."""
    distance = [0.0] * len(losses)
    for m in range(len(losses[0])):
        order = sorted(range(len(losses)), key=lambda i: losses[i][m])
        distance[order[0]] = distance[order[-1]] = float("inf")
        low, high = losses[order[0]][m], losses[order[-1]][m]
        if high > low:
            for before, here, after in zip(order, order[1:], order[2:], strict=False):
                distance[here] += (losses[after][m] - losses[before][m]) / (high - low)
    return distance


@given(
    st.integers(1, 3).flatmap(
        lambda m: st.lists(
            st.tuples(*[st.integers(-3, 3).map(float) | st.floats(-1e6, 1e6)] * m),
            min_size=1,
            max_size=9,
        )
    )
)
def test_crowding_is_the_papers(losses: list[tuple[float, ...]]) -> None:
    found = crowding(np.array(losses))
    np.testing.assert_allclose(found, naive_crowding(losses), rtol=1e-12)


def test_crowding_by_hand() -> None:
    """Ranges of 10 and 100: (2 - 0 + 100 - 40)/... for the second point, and so on."""
    losses = np.array([[0.0, 100.0], [2.0, 60.0], [5.0, 40.0], [10.0, 0.0]])
    expected = [np.inf, 5 / 10 + 60 / 100, 8 / 10 + 60 / 100, np.inf]
    np.testing.assert_allclose(crowding(losses), expected)
    shuffled = crowding(losses[[2, 0, 3, 1]])
    np.testing.assert_allclose(shuffled, [expected[i] for i in (2, 0, 3, 1)])


def test_crowding_of_few_or_equal_points() -> None:
    assert crowding(np.array([[1.0, 2.0]])).tolist() == [np.inf]
    assert crowding(np.array([[1.0, 2.0], [2.0, 1.0]])).tolist() == [np.inf] * 2
    equal = crowding(np.ones((4, 2)))
    assert np.isinf(equal).sum() == 2
    assert (equal[~np.isinf(equal)] == 0).all()


def named(number: int) -> Candidate:
    return Candidate({"number": number})


def observations(*rows: tuple[float, ...] | float) -> list[Observation]:
    """A tuple is the losses of a valid one, a number the violation of another."""
    return [
        Observation(candidate=named(i), losses=row)
        if isinstance(row, tuple)
        else Observation(candidate=named(i), losses=None, violation=row)
        for i, row in enumerate(rows)
    ]


def test_survivors_are_the_valid_by_front_then_by_crowding() -> None:
    rows = observations(
        (3.0, 6.0),  # second front
        (0.0, 10.0),  # first front: an end
        (1.0, 5.0),  # the crowded one
        (2.0, 4.0),
        (10.0, 0.0),  # the other end
    )
    assert survivors(rows, 5) == [1, 4, 3, 2, 0]
    assert survivors(rows, 3) == [1, 4, 3]
    assert survivors(rows[::-1], 5) == [0, 3, 1, 2, 4]


def test_survivors_prefer_the_valid_then_the_smaller_violation() -> None:
    inf = float("inf")
    rows = observations(0.5, (9.0, 9.0), 0.1, inf, (8.0, 8.0), 0.3, float("nan"))
    assert survivors(rows, 7) == [4, 1, 2, 5, 0]  # other failures are not bred from
    assert survivors(rows, 3) == [4, 1, 2]
    assert survivors(observations(inf, inf), 2) == []
    assert survivors([], 2) == []


def test_a_full_score_beyond_a_limit_is_not_valid() -> None:
    best = Observation(candidate=named(0), losses=(0.0, 0.0), violation=0.2)
    (worst,) = observations((9.0, 9.0))
    assert survivors([best, worst], 2) == [1, 0]
    assert not best.valid
    assert worst.valid


@given(
    st.lists(
        st.tuples(st.integers(0, 4).map(float), st.integers(0, 4).map(float))
        | st.sampled_from([0.1, 0.2, 0.7, float("inf")]),
        max_size=10,
    ),
    st.integers(0, 12),
)
def test_survivors_in_general(rows: list[Any], count: int) -> None:
    everyone = observations(*rows)
    found = survivors(everyone, count)
    usable = [i for i, o in enumerate(everyone) if o.valid or np.isfinite(o.violation)]
    assert len(found) == len(set(found)) == min(count, len(usable))
    dropped = [i for i in usable if i not in found]
    for kept in (everyone[i] for i in found):
        for other in (everyone[i] for i in dropped):
            assert kept.valid or not other.valid
            if kept.losses is not None and other.losses is not None:
                better = np.all(np.array(other.losses) <= kept.losses)
                assert not (better and other.losses != kept.losses)
            if kept.losses is None and other.losses is None:
                assert kept.violation <= other.violation


def test_parents_are_kept_best_first_over_batches() -> None:
    sampler = NSGA2Sampler(population=2)
    state = sampler.init(MIXED)
    rng = generator(1)
    rows = [Observation(candidate=MIXED.sample(rng), losses=(float(i),)) for i in (3, 1, 2, 0)]
    state = sampler.tell(state, rows[:2])
    assert [p.losses for p in state.parents] == [(1.0,), (3.0,)]
    state = sampler.tell(state, rows[2:])
    assert [p.losses for p in state.parents] == [(0.0,), (1.0,)]


def test_without_crossover_a_child_is_near_its_parents() -> None:
    """One mutation of one parameter: all the other values are a parent's."""
    space = Space([Ordinal(f"p{i}", list(range(20))) for i in range(8)])
    sampler = NSGA2Sampler(population=2, crossover=0.0, mutation=0.0)  # at least one moves
    rng = generator(1)
    parents = [space.sample(rng) for _ in range(2)]
    told = [Observation(candidate=c, losses=(0.0, float(i))) for i, c in enumerate(parents)]
    children = sampler.ask(sampler.tell(sampler.init(space), told), 30, generator(2))
    for child in children:
        changed = [sum(child[n] != p[n] for n in child) for p in parents]
        assert min(changed) == 1
    bred = NSGA2Sampler(population=2, crossover=1.0, mutation=0.0)
    children = bred.ask(bred.tell(bred.init(space), told), 30, generator(2))
    mixtures = [
        sum(child[n] in (parents[0][n], parents[1][n]) for n in child) for child in children
    ]
    assert min(mixtures) >= 7  # every value but one is a parent's
    assert any(min(sum(c[n] != p[n] for n in c) for p in parents) > 1 for c in children)


def test_better_parents_have_more_children() -> None:
    space = Space([Ordinal(f"p{i}", list(range(50))) for i in range(4)])
    sampler = NSGA2Sampler(population=4, crossover=0.0, mutation=0.0)
    parents = [Candidate({f"p{i}": 10 * k for i in range(4)}) for k in range(4)]
    told = [Observation(candidate=c, losses=(float(i),)) for i, c in enumerate(parents)]
    children = sampler.ask(sampler.tell(sampler.init(space), told), 400, generator(0))
    nearest = Counter(
        max(range(4), key=lambda k: sum(child[n] == parents[k][n] for n in child))
        for child in children
    )
    # the better of two drawn from n: the k-th best with probability (2 (n - k) + 1) / n^2
    for k in range(4):
        assert nearest[k] / 400 == pytest.approx((2 * (4 - k) - 1) / 16, abs=0.08)


# On a known problem -------------------------------------------------------------------------------

ZDT = Space([Integer(f"x{i}", 0, 40) for i in range(6)])


def zdt1(candidate: Candidate) -> tuple[float, float]:
    """ZDT1 on a grid (Zitzler, Deb and Thiele, 2000): the front is f2 = 1 - sqrt(f1)."""
    first, *others = (float(candidate[f"x{i}"]) / 40 for i in range(6))
    g = 1 + 9 * sum(others) / 5
    return first, g * (1 - (first / g) ** 0.5)


def searched(name: str, trials: int, seed: int) -> float:
    """The hypervolume after so many trials in batches of 16."""
    sampler = make_sampler(name, {"population": 16} if name == "nsga2" else {})
    state, losses = sampler.init(ZDT), []
    for batch in range(trials // 16):
        proposals = sampler.ask(state, 16, np.random.default_rng([seed, batch]))
        told = [Observation(candidate=c, losses=zdt1(c)) for c in proposals]
        losses += [o.losses for o in told]
        state = sampler.tell(state, told)
    points = np.array(losses)
    return relative_hypervolume(points[nondominated(points)], [1.1, 11.0], [0.0, 0.0])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_evolution_beats_chance_on_zdt1(seed: int) -> None:
    best = relative_hypervolume(
        np.array(
            [zdt1(Candidate({**{f"x{i}": 0 for i in range(1, 6)}, "x0": k})) for k in range(41)]
        ),
        [1.1, 11.0],
        [0.0, 0.0],
    )
    chance, evolved = searched("random", 320, seed), searched("nsga2", 320, seed)
    assert chance < evolved <= best
    assert best - evolved < 0.25 * (best - chance)
