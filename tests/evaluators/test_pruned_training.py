"""Training that prunes: at once, gradually, in a pattern, and as a lottery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from paretax.evaluators.training import Trainer, to_numpy
from paretax.tasks import Arrays

if TYPE_CHECKING:
    from tests.evaluators.conftest import AssertSame, CountingTrainer, Differ, Watched, Watching

# What `trainer` has trained.
SMALL = {"width": 4, "depth": 1, "epochs": 2, "batch_size": 64, "learning_rate": 0.02}
WIDE = {**SMALL, "width": 30}
KERNELS = {"hidden/0/kernel": 30 * 4, "out/kernel": 4 * 2}
STEPS = 341 // 64  # of an epoch of SMALL


def smallest(weights: np.ndarray, count: int) -> np.ndarray:
    """Where the `count` smallest weights are."""
    gone = np.zeros(weights.size, bool)
    gone[np.argsort(np.abs(weights).ravel(), kind="stable")[:count]] = True
    return gone.reshape(weights.shape)


def assert_masks_grow(seen: Watched) -> None:
    """A weight that is zero stays so."""
    for before, after in pairwise(seen.weights):
        for name in KERNELS:
            assert not ((before[name] == 0) & (after[name] != 0)).any()


def assert_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """The same but for rounding: a training that prunes later runs with masks from the start."""
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-6)


def test_a_watch_is_told_of_every_epoch(
    trainer: CountingTrainer, watched: Watching, assert_same: AssertSame, differ: Differ
) -> None:
    seen, params = watched(trainer, {**SMALL, "epochs": 3})
    assert seen.steps == [STEPS, 2 * STEPS, 3 * STEPS]
    assert_same(seen.weights[-1], params)
    assert differ(seen.weights[0], seen.weights[1])


@pytest.mark.parametrize(("start", "tuning"), [(0.1, 0.3), (0.0, 0.0), (0.3, 0.2)])
def test_gradual_pruning_follows_the_cubic_of_zhu_and_gupta(
    trainer: CountingTrainer, watched: Watching, start: float, tuning: float
) -> None:
    epochs, sparsity = 10, 0.8
    candidate = {
        **SMALL,
        "epochs": epochs,
        "sparsity": sparsity,
        "pruning": "gradual",
        "pruning_start": start,
        "fine_tuning": tuning,
    }
    seen, params = watched(trainer, candidate)
    first, last = start * epochs, epochs * (1 - tuning)
    for name, size in KERNELS.items():
        final = round(size * sparsity)
        expected = []
        for epoch in range(epochs):
            begun = min(max((epoch - first) / (last - first), 0.0), 1.0)
            expected.append(round(final * (1 - (1 - begun) ** 3)))
        assert seen.zeros(name) == expected
        assert len(set(expected)) > 3
        assert (params[name] == 0).sum() == final
    assert_masks_grow(seen)


def test_pruning_at_once_is_of_the_smallest_and_stays(
    trainer: CountingTrainer, watched: Watching, differ: Differ
) -> None:
    candidate = {**SMALL, "epochs": 5, "sparsity": 0.7, "fine_tuning": 0.4}
    seen, params = watched(trainer, candidate)
    for name, size in KERNELS.items():
        final = round(0.7 * size)
        assert seen.zeros(name) == [0, 0, 0, final, final]
        gone = smallest(seen.weights[2][name], final)
        for weights in (*seen.weights[3:], params):
            np.testing.assert_array_equal(weights[name] == 0, gone)
        assert differ(seen.weights[3], seen.weights[4])  # what stays is tuned
    dense, _ = watched(trainer, {**SMALL, "epochs": 5})
    assert_alike(dense.weights[2], seen.weights[2])  # the same training until then


def test_without_fine_tuning_pruning_comes_after_training(
    trainer: CountingTrainer, watched: Watching, assert_same: AssertSame
) -> None:
    dense, whole = watched(trainer, SMALL)
    seen, params = watched(trainer, {**SMALL, "sparsity": 0.7, "fine_tuning": 0.0})
    for one, other in zip(dense.weights, seen.weights, strict=True):
        assert_same(one, other)
    for name in whole:
        if name in KERNELS:
            gone = smallest(whole[name], round(0.7 * KERNELS[name]))
            np.testing.assert_array_equal(params[name], np.where(gone, 0.0, whole[name]))
        else:
            np.testing.assert_array_equal(params[name], whole[name])


def test_the_global_scope_prunes_the_smallest_of_all_layers(
    trainer: CountingTrainer, watched: Watching
) -> None:
    candidate = {**SMALL, "sparsity": 0.7, "fine_tuning": 0.0}
    _, whole = watched(trainer, SMALL)
    _, by_layer = watched(trainer, candidate)
    seen, params = watched(trainer, {**candidate, "pruning_scope": "global"})
    counts = {name: int((params[name] == 0).sum()) for name in KERNELS}
    total = sum(round(0.7 * size) for size in KERNELS.values())
    assert sum(counts.values()) == total
    assert counts != {name: int((by_layer[name] == 0).sum()) for name in KERNELS}
    together = np.concatenate([whole[name].ravel() for name in KERNELS])
    gone = smallest(together, total)
    expected = np.concatenate([params[name].ravel() == 0 for name in KERNELS])
    np.testing.assert_array_equal(expected, gone)

    gradual = {**candidate, "pruning_scope": "global", "pruning": "gradual", "epochs": 6}
    seen, params = watched(trainer, gradual)
    assert sum(int((params[name] == 0).sum()) for name in KERNELS) == total
    assert len({sum(int((w[n] == 0).sum()) for n in KERNELS) for w in seen.weights}) > 3
    assert_masks_grow(seen)


@pytest.mark.parametrize("pruning", ["one_shot", "gradual"])
@pytest.mark.parametrize("pattern", ["1:2", "2:3", "3:5"])
def test_n_of_each_m_inputs_stay(
    trainer: CountingTrainer, watched: Watching, pattern: str, pruning: str
) -> None:
    """The largest of each group, as they are before the pattern is applied, and from then on."""
    n, m = map(int, pattern.split(":"))
    candidate = {
        **WIDE,
        "epochs": 4,
        "pruning_pattern": pattern,
        "pruning": pruning,
        "fine_tuning": 0.5,
    }
    seen, params = watched(trainer, candidate)
    for name in KERNELS:
        before = seen.weights[1][name]
        assert (before != 0).all()
        for weights in (seen.weights[2], seen.weights[3], params):
            groups = weights[name].T.reshape(before.shape[1], -1, m)
            assert ((groups != 0).sum(axis=-1) == n).all()
            for old, new in zip(before.T.reshape(-1, m), groups.reshape(-1, m), strict=True):
                np.testing.assert_array_equal(new == 0, smallest(old, m - n))


def test_a_schedule_in_turn_prunes_in_its_own_stage(
    trainer: CountingTrainer, watched: Watching, assert_same: AssertSame
) -> None:
    candidate = {
        **SMALL,
        "epochs": 8,
        "sparsity": 0.5,
        "weight_bits": 4,
        "qat": "ste",
        "schedule": "prune_then_quantize_then_distill",
    }
    seen, params = watched(trainer, candidate)
    other, _ = watched(trainer, {**candidate, "schedule": "quantize_then_prune_then_distill"})
    alone, _ = watched(trainer, {**SMALL, "epochs": 4})
    for name, size in KERNELS.items():
        assert seen.zeros(name) == [0] * 4 + [size // 2] * 4
        assert other.zeros(name) == [0] * 6 + [size // 2] * 2
        assert (params[name] == 0).sum() == size // 2
    for one, two, three in zip(
        seen.weights[:4], other.weights[:4], alone.weights, strict=True
    ):  # the dense stage is a training of its own
        assert_same(one, two)
        assert_alike(one, three)


# Lottery tickets ----------------------------------------------------------------------------------

LOTTERY = {**WIDE, "pruning": "lottery_ticket", "sparsity": 1 - 0.8**3}


@dataclass(frozen=True, kw_only=True)
class Round:
    """One training of a lottery: where it began, under which masks, and how it ended."""

    first: int
    begin: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    end: dict[str, np.ndarray]


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[Round]:
    """The trainings of a lottery, as they happen."""
    seen: list[Round] = []
    plain, plain_masked = Trainer._advance, Trainer._masked
    dense: dict[str, np.ndarray] = {}

    def advanced(self: Trainer, run: Any, stand: Any, until: int) -> None:
        if stand.step == 0:
            dense.update({n: np.array(a) for n, a in stand.carry[0].items()})
        plain(self, run, stand, until)
        if not stand.masks and until == run.end:
            end = {n: np.array(a) for n, a in stand.carry[0].items()}
            seen.append(Round(first=0, begin=dict(dense), masks={}, end=end))

    def masked(self: Trainer, run: Any, carry: Any, masks: Arrays, step: int) -> Any:
        begin = {n: np.array(a) for n, a in carry[0].items()}
        found = plain_masked(self, run, carry, masks, step)
        end = {n: np.array(a) for n, a in found[0].items()}
        seen.append(Round(first=step, begin=begin, masks=to_numpy(masks), end=end))
        return found

    monkeypatch.setattr(Trainer, "_advance", advanced)
    monkeypatch.setattr(Trainer, "_masked", masked)
    return seen


def test_a_ticket_is_pruned_in_rounds_as_in_the_paper(
    trainer: CountingTrainer, rounds: list[Round]
) -> None:
    """A fifth of what is left in each round, of the last layer a tenth (section 2)."""
    params, *_ = trainer.train(LOTTERY, 0)
    sizes = {"hidden/0/kernel": (900, 0.2), "out/kernel": (60, 0.1)}
    assert len(rounds) == 4
    for number, each in enumerate(rounds):
        for name, (size, rate) in sizes.items():
            expected = round(size * (1 - (1 - rate) ** number))
            if number:
                assert (~each.masks[name]).sum() == expected
                np.testing.assert_array_equal(each.end[name] == 0, ~each.masks[name])
                before = rounds[number - 1].end[name]
                np.testing.assert_array_equal(~each.masks[name], smallest(before, expected))
    for name in sizes:
        np.testing.assert_array_equal(np.asarray(params[name]), rounds[-1].end[name])


def test_what_stays_goes_back_to_its_initial_weight(
    trainer: CountingTrainer, rounds: list[Round], watched: Watching, assert_same: AssertSame
) -> None:
    trainer.train(LOTTERY, 0)
    _, whole = watched(trainer, WIDE)
    *rounds, alone = rounds
    assert_same(rounds[0].end, whole)  # the first training is a plain one
    for each in rounds:
        assert each.first == 0
        assert_same(each.begin, alone.begin)
    still, *_ = trainer.train({**LOTTERY, "learning_rate": 1e-30}, 0)  # nothing moves
    for name in KERNELS:
        kept = np.asarray(still[name]) != 0
        np.testing.assert_array_equal(np.asarray(still[name])[kept], alone.begin[name][kept])


@pytest.mark.parametrize("step", [2, STEPS, STEPS + 3])
def test_what_stays_goes_back_to_a_later_step(
    trainer: CountingTrainer,
    rounds: list[Round],
    watched: Watching,
    assert_same: AssertSame,
    differ: Differ,
    step: int,
) -> None:
    seen, _ = watched(trainer, {**LOTTERY, "rewind_step": step})
    found = list(rounds)
    _, whole = watched(trainer, WIDE)
    assert_same(found[0].end, whole)  # stopping at the step on the way changes nothing
    for each in found[1:]:
        assert each.first == step
        assert_same(each.begin, found[1].begin)
        assert differ(each.begin, found[0].begin)
    if step == STEPS:
        assert_same(found[1].begin, seen.weights[0])
    rounds.clear()
    trainer.train({**LOTTERY, "rewind_step": step, "sparsity": 0.01}, 0)  # one round, hardly any
    for name, array in rounds[1].end.items():  # from there on it is the first training again
        if not name.endswith("kernel"):
            np.testing.assert_allclose(array, whole[name], atol=0.02)
    assert seen.steps[:2] == [STEPS, 2 * STEPS]


def test_the_control_starts_afresh_under_the_same_mask(
    trainer: CountingTrainer, rounds: list[Round], assert_same: AssertSame, differ: Differ
) -> None:
    ticket, *_ = trainer.train(LOTTERY, 0)
    tickets = list(rounds)
    rounds.clear()
    fresh, *_ = trainer.train({**LOTTERY, "ticket": "fresh"}, 0)
    for one, other in zip(tickets[:-1], rounds[:-1], strict=True):
        assert_same(one.end, other.end)
    assert_same(tickets[-1].masks, rounds[-1].masks)
    assert (tickets[-1].first, rounds[-1].first) == (0, 0)
    for name in KERNELS:
        np.testing.assert_array_equal(np.asarray(ticket[name]) == 0, np.asarray(fresh[name]) == 0)
        assert (tickets[-1].begin[name] != rounds[-1].begin[name]).all()
    assert differ(ticket, fresh)
    again, *_ = trainer.train({**LOTTERY, "ticket": "fresh"}, 0)
    assert_same(fresh, again)


def test_tickets_and_their_controls_can_be_looked_at_one_by_one(
    trainer: CountingTrainer, assert_same: AssertSame, differ: Differ
) -> None:
    steps: list[int] = []
    tickets = list(trainer.lottery(LOTTERY, 0, lambda step, *_: steps.append(step)))
    assert [t.round for t in tickets] == [0, 1, 2, 3]
    assert steps == [STEPS, 2 * STEPS] * 4
    assert tickets[0].masks == {}
    params, *_ = trainer.train(LOTTERY, 0)
    assert_same(tickets[-1].carry[0], params)  # a later round does not take an earlier one away
    whole, *_ = trainer.train(WIDE, 0)
    assert_same(tickets[0].carry[0], whole)
    control = trainer.fresh(LOTTERY, tickets[2], 7)
    assert control.round == 2
    for name in KERNELS:
        gone = ~np.asarray(tickets[2].masks[name])
        np.testing.assert_array_equal(np.asarray(control.carry[0][name]) == 0, gone)
    other = trainer.fresh(LOTTERY, tickets[2], 8)
    assert differ(control.carry[0], tickets[2].carry[0])
    assert differ(control.carry[0], other.carry[0])
    assert_same(control.carry[0], trainer.fresh(LOTTERY, tickets[2], 7).carry[0])
    longer, *_ = trainer.train({**WIDE, "learning_rate": 1e-30}, 7)
    start = trainer.fresh({**LOTTERY, "learning_rate": 1e-30}, tickets[2], 7).carry[0]
    for name in KERNELS:  # as a training of that seed begins
        kept = np.asarray(tickets[2].masks[name])
        np.testing.assert_array_equal(np.asarray(start[name])[kept], np.asarray(longer[name])[kept])
