"""Training: repeatable, compiled once, and able to learn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.evaluators import Workbench, training
from paretax.evaluators.calibrating import Calibrator
from paretax.evaluators.lanes import DivergedError
from paretax.evaluators.steps import loops_on_host
from paretax.evaluators.training import Trainer, to_numpy
from paretax.spaces.training import smoothed_loss
from paretax.tasks import Arrays, Data, Metric, Split, SupervisedTask

if TYPE_CHECKING:
    from tests.evaluators.conftest import AssertSame, CountingTrainer, Differ

# What `trainer` has trained.
SMALL = {"width": 4, "depth": 1, "epochs": 2, "batch_size": 64, "learning_rate": 0.02}


def test_the_same_seed_gives_the_same_bits(
    trainer: CountingTrainer, assert_same: AssertSame
) -> None:
    params, state, learned = trainer.train(SMALL, 3)
    again, *_ = trainer.train(SMALL, 3)
    assert_same(params, again)
    assert (state, learned) == ({}, {})
    elsewhere, *_ = type(trainer)().train(SMALL, 3)  # compiled on its own
    assert_same(params, elsewhere)


@pytest.mark.parametrize(
    "change",
    [{"learning_rate": 0.05}, {"weight_decay": 0.5}, {"epochs": 3}],
    ids=["learning rate", "weight decay", "epochs"],
)
def test_numbers_matter_and_do_not_compile_again(
    trainer: CountingTrainer, differ: Differ, change: dict[str, Any]
) -> None:
    before = trainer.traces
    usual, *_ = trainer.train(SMALL, 0)
    changed, *_ = trainer.train({**SMALL, **change}, 0)
    assert differ(usual, changed)
    assert trainer.traces == before


def test_the_seed_matters_and_does_not_compile_again(
    trainer: CountingTrainer, differ: Differ
) -> None:
    before = trainer.traces
    assert differ(trainer.train(SMALL, 0)[0], trainer.train(SMALL, 1)[0])
    assert trainer.traces == before


def test_what_is_done_after_training_does_not_change_it(
    trainer: CountingTrainer, assert_same: AssertSame
) -> None:
    before = trainer.traces
    compressed = {**SMALL, "quantize": True, "weight_bits": 3, "calibration": "mse"}
    assert_same(trainer.train(SMALL, 0)[0], trainer.train(compressed, 0)[0])
    assert trainer.traces == before


@pytest.mark.parametrize(
    "change", [{"batch_size": 128}, {"optimizer": "lion"}, {"width": 3}], ids=str
)
def test_what_changes_the_program_compiles_once(
    trainer: CountingTrainer, differ: Differ, change: dict[str, Any]
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


def test_arrays_come_to_the_host() -> None:
    found = to_numpy({"a": jax.numpy.arange(3)})
    assert type(found["a"]) is np.ndarray
    np.testing.assert_array_equal(found["a"], [0, 1, 2])


# Convolutions -------------------------------------------------------------------------------------

CONV = {"epochs": 2, "batch_size": 16, "learning_rate": 0.01}


def test_convolutions_are_trained_step_by_step_with_the_same_weights_at_the_end(
    bench: Workbench, image_bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loops_on_host(image_bench.prepared(CONV))
    assert not loops_on_host(bench.prepared(SMALL))
    stepped, *_ = Trainer(image_bench, Calibrator()).train(CONV, 0)
    asked = []

    def never(prepared: Any) -> bool:
        asked.append(prepared)
        return False

    monkeypatch.setattr(training, "loops_on_host", never)
    trainer = Trainer(image_bench, Calibrator())
    scanned, *_ = trainer.train(CONV, 0)
    assert asked

    start, *_ = trainer.train({**CONV, "learning_rate": 1e-9}, 0)
    assert stepped.keys() == scanned.keys()
    for name in stepped:
        np.testing.assert_allclose(stepped[name], scanned[name], rtol=0, atol=1e-5)
        assert np.abs(np.asarray(stepped[name]) - np.asarray(start[name])).max() > 1e-3


def test_labels_are_smoothed_by_a_share_for_all_classes(bench: Workbench) -> None:
    """Cross-entropy under (1 - e) of the label and e evenly, in closed form."""
    outputs = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    labels = jnp.array([0, 2, 1, 1, 0])
    found = smoothed_loss(bench.task.loss, outputs, labels, jnp.float32(0.3))
    targets = 0.7 * np.eye(3)[np.asarray(labels)] + 0.1
    expected = -(targets * np.asarray(jax.nn.log_softmax(outputs))).sum(axis=1).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_clipped_gradients_have_at_most_the_norm_asked_for(bench: Workbench) -> None:
    """One step of plain descent by a clipped gradient moves the weights by rate times norm."""
    trainer = Trainer(bench, Calibrator())
    examples = len(bench.data.train)
    one_step = {**SMALL, "optimizer": "sgd", "epochs": 1, "batch_size": examples}
    one_step |= {"learning_rate_decay": "none", "learning_rate": 1.0}
    start, *_ = trainer.train({**one_step, "learning_rate": 1e-30}, 0)

    def moved(**change: float) -> float:
        end, *_ = trainer.train({**one_step, **change}, 0)
        squares = [np.square(np.asarray(end[n]) - np.asarray(start[n])).sum() for n in start]
        return math.sqrt(sum(squares))

    free = moved()
    assert moved(gradient_clip=free) == pytest.approx(free, rel=1e-4)  # 1.9 of it is the step
    np.testing.assert_allclose(moved(gradient_clip=0.01), 1.9 * 0.01, rtol=1e-3)


def test_only_labels_can_be_smoothed(bench: Workbench) -> None:
    floating = replace_targets(bench, np.float32)
    with pytest.raises(UsageError, match="label_smoothing needs whole-number labels"):
        floating.check_training({**SMALL, "label_smoothing": 0.1})
    floating.check_training(SMALL)


def replace_targets(bench: Workbench, dtype: Any) -> Workbench:
    """The task with targets of another type."""
    data = bench.data
    parts = {
        name: Split(getattr(data, name).inputs, getattr(data, name).targets.astype(dtype))
        for name in ("train", "validation", "test")
    }
    task = bench.task
    return Workbench(
        SupervisedTask(
            name="floating",
            metric=task.metric,
            load=lambda: Data(**parts),
            model=task.build,
            loss_function=task.loss,
            outputs="classes",
            defaults=task.defaults,
        )
    )
