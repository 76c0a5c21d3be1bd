"""Training: repeatable, compiled once, and able to learn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.evaluators import Lesson, Workbench
from paretax.evaluators.calibrating import Calibrator
from paretax.evaluators.training import DivergedError, Trainer, to_numpy
from paretax.spaces.distillation import similarity_loss, soft_target_loss
from paretax.spaces.fake_quantization import LEARNED
from paretax.tasks import Arrays, Data, Metric, Split, SupervisedTask, cross_entropy
from paretax.tasks.breast_cancer import task as breast_cancer

SMALL = {"width": 4, "depth": 1, "epochs": 2, "batch_size": 64, "learning_rate": 0.02}


class CountingTrainer(Trainer):
    """A trainer on the breast cancer task that counts how often its loss is traced."""

    def __init__(self) -> None:
        self.traces = 0

        def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
            self.traces += 1
            return cross_entropy(outputs, targets)

        super().__init__(Workbench(replace(breast_cancer, loss_function=loss)), Calibrator())


@pytest.fixture(scope="module")
def trainer() -> CountingTrainer:
    """Has trained once."""
    made = CountingTrainer()
    made.train(SMALL, 0)
    assert made.traces > 0
    return made


def assert_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def assert_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """The same but for rounding: a training that prunes later runs with masks from the start."""
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-6)


def differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return any(not np.array_equal(one[name], other[name]) for name in one)


def test_the_same_seed_gives_the_same_bits(trainer: CountingTrainer) -> None:
    params, state, learned = trainer.train(SMALL, 3)
    again, *_ = trainer.train(SMALL, 3)
    assert_same(params, again)
    assert (state, learned) == ({}, {})
    elsewhere, *_ = CountingTrainer().train(SMALL, 3)  # compiled on its own
    assert_same(params, elsewhere)


@pytest.mark.parametrize(
    "change",
    [{"learning_rate": 0.05}, {"weight_decay": 0.5}, {"epochs": 3}],
    ids=["learning rate", "weight decay", "epochs"],
)
def test_numbers_matter_and_do_not_compile_again(
    trainer: CountingTrainer, change: dict[str, Any]
) -> None:
    before = trainer.traces
    usual, *_ = trainer.train(SMALL, 0)
    changed, *_ = trainer.train({**SMALL, **change}, 0)
    assert differ(usual, changed)
    assert trainer.traces == before


def test_the_seed_matters_and_does_not_compile_again(trainer: CountingTrainer) -> None:
    before = trainer.traces
    assert differ(trainer.train(SMALL, 0)[0], trainer.train(SMALL, 1)[0])
    assert trainer.traces == before


def test_what_is_done_after_training_does_not_change_it(trainer: CountingTrainer) -> None:
    before = trainer.traces
    compressed = {**SMALL, "quantize": True, "weight_bits": 3, "calibration": "mse"}
    assert_same(trainer.train(SMALL, 0)[0], trainer.train(compressed, 0)[0])
    assert trainer.traces == before


@pytest.mark.parametrize(
    "change", [{"batch_size": 128}, {"optimizer": "lion"}, {"width": 3}], ids=str
)
def test_what_changes_the_program_compiles_once(
    trainer: CountingTrainer, change: dict[str, Any]
) -> None:
    """The control of the tests above: the counter does see a compilation."""
    before = trainer.traces
    params, *_ = trainer.train({**SMALL, **change}, 0)
    after = trainer.traces
    assert after > before
    trainer.train({**SMALL, **change}, 1)
    assert trainer.traces == after
    if "width" not in change:
        assert differ(params, trainer.train(SMALL, 0)[0])


@pytest.mark.parametrize("falls", ["cosine", "none"])
def test_a_training_is_the_optimisers_steps_over_whole_batches(falls: str) -> None:
    """5 examples in batches of 2 are 2 steps an epoch; all are equal, so their order is no matter.

    The model is y = w x from w = 0, for x = 1 and y = 3, so the gradient is 2 (w - 3).
    """
    part = Split(np.ones((5, 1), np.float32), np.full((5, 1), 3.0, np.float32))
    task = SupervisedTask(
        name="line",
        metric=Metric(name="error", direction="minimize", compute=lambda outputs, targets: 0.0),
        load=lambda: Data(train=part, validation=part, test=part),
        model=lambda config: (
            lambda key, inputs: {"w": jnp.zeros((1, 1))},
            lambda params, inputs: inputs @ params["w"],
        ),
        loss_function=lambda outputs, targets: jnp.mean((outputs - targets) ** 2),
        defaults={},
    )
    rate, decay, epochs = 0.1, 0.5, 3
    candidate = {
        "optimizer": "sgd",
        "batch_size": 2,
        "epochs": epochs,
        "learning_rate": rate,
        "weight_decay": decay,
        "learning_rate_decay": falls,
    }
    params, *_ = Trainer(Workbench(task), Calibrator()).train(candidate, 0)
    weight = momentum = 0.0
    for step in range(2 * epochs):
        gradient = 2 * (weight - 3)
        momentum = gradient + 0.9 * momentum
        direction = gradient + 0.9 * momentum + decay * weight  # Nesterov, decoupled decay
        share = 0.5 * (1 + math.cos(math.pi * step / (2 * epochs))) if falls == "cosine" else 1.0
        weight -= rate * share * direction
    assert params["w"].item() == pytest.approx(weight, rel=1e-5)


def test_a_training_that_diverges_says_when(bench: Workbench) -> None:
    wild = {"width": 8, "depth": 2, "epochs": 20, "optimizer": "sgd", "learning_rate": 1e6}
    with pytest.raises(DivergedError, match=r"the training loss is (nan|inf) in epoch \d+ of 20"):
        Trainer(bench, Calibrator()).train(wild, 0)


def test_it_learns(trainer: CountingTrainer, bench: Workbench) -> None:
    candidate = {**SMALL, "epochs": 20}
    params, state, _ = trainer.train(candidate, 0)
    held = bench.data.validation
    predict = bench.prepared(candidate).model.predict

    def score(params: Arrays) -> float:
        outputs = np.asarray(predict(params, state, jnp.asarray(held.inputs)))
        return float((outputs.argmax(axis=1) == held.targets).mean())

    start, *_ = trainer.train({**candidate, "learning_rate": 1e-9}, 0)
    assert score(params) > 0.9
    assert score(params) > score(start)


# Convolutions -------------------------------------------------------------------------------------

CONV = {"epochs": 2, "batch_size": 16, "learning_rate": 0.01}


def test_convolutions_are_trained_step_by_step_with_the_same_weights_at_the_end(
    bench: Workbench, image_bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = []
    scan = jax.lax.scan

    def counted(*args: Any, **kwargs: Any) -> Any:
        scans.append(1)
        return scan(*args, **kwargs)

    monkeypatch.setattr(jax.lax, "scan", counted)
    assert Trainer._slow_in_loops(image_bench.prepared(CONV))
    assert not Trainer._slow_in_loops(bench.prepared(SMALL))
    stepped, *_ = Trainer(image_bench, Calibrator()).train(CONV, 0)
    assert not scans
    monkeypatch.setattr(Trainer, "_slow_in_loops", staticmethod(lambda prepared: False))
    trainer = Trainer(image_bench, Calibrator())
    scanned, *_ = trainer.train(CONV, 0)
    assert scans

    start, *_ = trainer.train({**CONV, "learning_rate": 1e-9}, 0)
    assert stepped.keys() == scanned.keys()
    for name in stepped:
        np.testing.assert_allclose(stepped[name], scanned[name], rtol=0, atol=1e-5)
        assert np.abs(np.asarray(stepped[name]) - np.asarray(start[name])).max() > 1e-3


# Pruning ------------------------------------------------------------------------------------------

STEPS = 341 // 64  # of an epoch of SMALL


@dataclass(kw_only=True)
class Watched:
    """What a watch was told: the weights after each epoch."""

    steps: list[int] = field(default_factory=list)
    weights: list[dict[str, np.ndarray]] = field(default_factory=list)

    def __call__(self, steps: int, params: Arrays, state: Arrays) -> None:
        self.steps.append(steps)
        self.weights.append({n: np.array(a) for n, a in params.items()})

    def zeros(self, name: str) -> list[int]:
        return [int((w[name] == 0).sum()) for w in self.weights]


def watched(
    trainer: Trainer, candidate: Mapping[str, Any], seed: int = 0, lesson: Lesson | None = None
) -> tuple[Watched, dict[str, np.ndarray]]:
    """What was seen on the way, and the parameters at the end."""
    seen = Watched()
    params, *_ = trainer.train(candidate, seed, lesson, seen)
    return seen, to_numpy(params)


KERNELS = {"hidden/0/kernel": 30 * 4, "out/kernel": 4 * 2}
WIDE = {**SMALL, "width": 30}


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


def test_a_watch_is_told_of_every_epoch(trainer: CountingTrainer) -> None:
    seen, params = watched(trainer, {**SMALL, "epochs": 3})
    assert seen.steps == [STEPS, 2 * STEPS, 3 * STEPS]
    assert_same(seen.weights[-1], params)
    assert differ(seen.weights[0], seen.weights[1])


@pytest.mark.parametrize(("start", "tuning"), [(0.1, 0.3), (0.0, 0.0), (0.3, 0.2)])
def test_gradual_pruning_follows_the_cubic_of_zhu_and_gupta(
    trainer: CountingTrainer, start: float, tuning: float
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


def test_pruning_at_once_is_of_the_smallest_and_stays(trainer: CountingTrainer) -> None:
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


def test_without_fine_tuning_pruning_comes_after_training(trainer: CountingTrainer) -> None:
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


def test_the_global_scope_prunes_the_smallest_of_all_layers(trainer: CountingTrainer) -> None:
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
def test_n_of_each_m_inputs_stay(trainer: CountingTrainer, pattern: str, pruning: str) -> None:
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


def test_a_schedule_in_turn_prunes_in_its_own_stage(trainer: CountingTrainer) -> None:
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
    plain = Trainer._epochs

    def noted(self: Trainer, run: Any, carry: Any, masks: Arrays, first: int, keep: int = 0) -> Any:
        begin = {n: np.array(a) for n, a in carry[0].items()}
        found = plain(self, run, carry, masks, first, keep)
        end = {n: np.array(a) for n, a in found[0][0].items()}
        seen.append(Round(first=first, begin=begin, masks=to_numpy(masks), end=end))
        return found

    monkeypatch.setattr(Trainer, "_epochs", noted)
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
    trainer: CountingTrainer, rounds: list[Round]
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
    trainer: CountingTrainer, rounds: list[Round], step: int
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
    trainer: CountingTrainer, rounds: list[Round]
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


def test_tickets_and_their_controls_can_be_looked_at_one_by_one(trainer: CountingTrainer) -> None:
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


# Distillation -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lesson(trainer: CountingTrainer) -> Lesson:
    """A teacher that holds the opposite of the labels, and sees two of the features alone."""
    inputs, labels = trainer._bench.data.train.inputs, trainer._bench.data.train.targets
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 0.5, (len(labels), 2)).astype(np.float32)
    logits[np.arange(len(labels)), 1 - labels] += 4.0
    inner = np.concatenate([inputs[:, :2], -inputs[:, :2]], axis=1)
    return Lesson(key="contrary", teacher="a contrarian", outputs=logits, inner=inner, score=0.0)


DISTILLED = {**SMALL, "distill": True, "alpha": 1.0, "temperature": 2.0}


def test_a_student_of_the_teacher_alone_does_not_see_the_labels(
    trainer: CountingTrainer, lesson: Lesson, bench: Workbench
) -> None:
    predict = bench.prepared(SMALL).model.predict
    inputs, labels = bench.data.train.inputs, bench.data.train.targets

    def apart(params: Arrays) -> float:
        outputs = predict(params, {}, jnp.asarray(inputs))
        return float(soft_target_loss(outputs, jnp.asarray(lesson.outputs), jnp.float32(2.0)))

    def score(params: Arrays) -> float:
        outputs = np.asarray(predict(params, {}, jnp.asarray(inputs)))
        return float((outputs.argmax(axis=1) == labels).mean())

    candidate = {**DISTILLED, "epochs": 12}
    start, *_ = trainer.train({**candidate, "learning_rate": 1e-9}, 0, lesson)
    taught, *_ = trainer.train(candidate, 0, lesson)
    alone, *_ = trainer.train({**candidate, "alpha": 0.0}, 0, lesson)
    assert apart(taught) < 0.2 * apart(start) < apart(alone)
    assert score(taught) < 0.1
    assert score(alone) > 0.9


def test_with_alpha_0_it_is_plain_training(trainer: CountingTrainer, lesson: Lesson) -> None:
    plain, *_ = trainer.train(SMALL, 0)
    distilled, *_ = trainer.train({**DISTILLED, "alpha": 0.0}, 0, lesson)
    assert_same(plain, distilled)
    unheard, *_ = trainer.train({**SMALL, "alpha": 1.0}, 0, lesson)
    assert_same(plain, unheard)  # without `distill` the teacher is not heard


@pytest.mark.parametrize(
    "change", [{"alpha": 0.5}, {"temperature": 8.0}, {"learning_rate": 0.01}], ids=str
)
def test_the_numbers_of_a_distillation_matter_and_do_not_compile_again(
    trainer: CountingTrainer, lesson: Lesson, change: dict[str, Any]
) -> None:
    usual, *_ = trainer.train(DISTILLED, 0, lesson)
    before = trainer.traces
    changed, *_ = trainer.train({**DISTILLED, **change}, 0, lesson)
    assert differ(usual, changed)
    assert trainer.traces == before


def test_features_draw_a_student_to_what_its_teacher_holds_alike(
    trainer: CountingTrainer, lesson: Lesson, bench: Workbench
) -> None:
    assert lesson.inner is not None
    prepared = bench.prepared(SMALL)
    inner = jnp.asarray(lesson.inner)

    def apart(params: Arrays) -> float:
        hidden = jnp.asarray(prepared.features.train.inputs) @ params["hidden/0/kernel"]
        hidden = jax.nn.relu(hidden + params["hidden/0/bias"])
        return float(similarity_loss(hidden, inner))

    base = {**DISTILLED, "alpha": 0.0, "epochs": 8}
    found = [
        trainer.train({**base, "feature_weight": weight}, 0, lesson)[0]
        for weight in (0.0, 100.0, 1000.0)
    ]
    assert apart(found[2]) < apart(found[1]) < apart(found[0])
    before = trainer.traces
    again, *_ = trainer.train({**base, "feature_weight": 200.0}, 0, lesson)
    assert differ(again, found[1])
    assert trainer.traces == before


def test_a_distillation_goes_with_the_other_techniques(
    trainer: CountingTrainer, lesson: Lesson
) -> None:
    candidate = {
        **DISTILLED,
        "feature_weight": 1.0,
        "sparsity": 0.5,
        "fine_tuning": 0.5,
        "quantize": True,
        "qat": "lsq",
        "qat_start": 0.0,
    }
    params, _, learned = trainer.train(candidate, 0, lesson)
    alone, *_ = trainer.train({**candidate, "distill": False}, 0)
    assert differ(params, alone)
    for name, size in KERNELS.items():
        assert (np.asarray(params[name]) == 0).sum() == size // 2
        assert {f"{name}{side}" for side in LEARNED} <= learned.keys()
    assert len(learned) == 2 * len(KERNELS)


# Training on the grid -----------------------------------------------------------------------------


@pytest.mark.parametrize("qat", ["ste", "lsq"])
def test_training_on_the_grid_begins_where_it_is_told(trainer: CountingTrainer, qat: str) -> None:
    dense, _ = watched(trainer, {**SMALL, "epochs": 4})
    candidate = {**SMALL, "epochs": 4, "weight_bits": 2, "qat": qat, "qat_start": 0.5}
    seen, _ = watched(trainer, candidate)
    assert_same(dense.weights[0], seen.weights[0])
    assert_same(dense.weights[1], seen.weights[1])
    assert differ(dense.weights[2], seen.weights[2])
    has_steps = [any(n.endswith(LEARNED) for n in w) for w in seen.weights]
    assert has_steps == [False, False, qat == "lsq", qat == "lsq"]


@pytest.mark.parametrize("qat", ["ste", "lsq"])
@pytest.mark.parametrize(
    "change",
    [{"weight_bits": 5}, {"activation_bits": 3}, {"learning_rate": 0.01}, {"sparsity": 0.3}],
    ids=str,
)
def test_the_numbers_of_a_training_on_the_grid_do_not_compile_again(
    trainer: CountingTrainer, qat: str, change: dict[str, Any]
) -> None:
    usual = {**SMALL, "quantize": True, "weight_bits": 4, "sparsity": 0.5, "qat": qat}
    params, *_ = trainer.train(usual, 0)
    before = trainer.traces
    changed, *_ = trainer.train({**usual, **change}, 0)
    assert differ(params, changed)
    assert trainer.traces == before


def test_steps_are_learned_where_there_are_whole_numbers_alone(trainer: CountingTrainer) -> None:
    candidate = {**SMALL, "weight_bits@last": 4, "precision@first": "float8", "qat": "lsq"}
    _, _, learned = trainer.train(candidate, 0)
    assert learned.keys() == {f"out/kernel{side}" for side in LEARNED}
    longer = {**candidate, "epochs": 4}
    assert differ(learned, trainer.train(longer, 0)[2])


def test_arrays_come_to_the_host() -> None:
    found = to_numpy({"a": jax.numpy.arange(3)})
    assert type(found["a"]) is np.ndarray
    np.testing.assert_array_equal(found["a"], [0, 1, 2])
