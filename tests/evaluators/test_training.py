"""Training: repeatable, compiled once, and able to learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from paretax.evaluators import Workbench
from paretax.evaluators.training import DivergedError, Trainer, to_numpy
from paretax.tasks import Arrays, cross_entropy
from paretax.tasks.breast_cancer import task as breast_cancer

SMALL = {"width": 4, "depth": 1, "epochs": 2, "batch_size": 64, "learning_rate": 0.02}


class CountingTrainer(Trainer):
    """A trainer on the breast cancer task that counts how often its loss is traced."""

    def __init__(self) -> None:
        self.traces = 0

        def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
            self.traces += 1
            return cross_entropy(outputs, targets)

        super().__init__(Workbench(replace(breast_cancer, loss_function=loss)))


@pytest.fixture(scope="module")
def trainer() -> CountingTrainer:
    """Has trained once."""
    made = CountingTrainer()
    made.train(SMALL, 0)
    assert made.traces > 0
    return made


def assert_same(one: Arrays, other: Arrays) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def differ(one: Arrays, other: Arrays) -> bool:
    return any(not np.array_equal(one[name], other[name]) for name in one)


def test_the_same_seed_gives_the_same_bits(trainer: CountingTrainer) -> None:
    params, state = trainer.train(SMALL, 3)
    again, _ = trainer.train(SMALL, 3)
    assert_same(params, again)
    assert state == {}
    elsewhere, _ = CountingTrainer().train(SMALL, 3)  # compiled on its own
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
    usual, _ = trainer.train(SMALL, 0)
    changed, _ = trainer.train({**SMALL, **change}, 0)
    assert differ(usual, changed)
    assert trainer.traces == before


def test_the_seed_matters_and_does_not_compile_again(trainer: CountingTrainer) -> None:
    before = trainer.traces
    assert differ(trainer.train(SMALL, 0)[0], trainer.train(SMALL, 1)[0])
    assert trainer.traces == before


def test_what_is_done_after_training_does_not_change_it(trainer: CountingTrainer) -> None:
    before = trainer.traces
    compressed = {**SMALL, "sparsity": 0.5, "quantize": True, "weight_bits": 3}
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
    params, _ = trainer.train({**SMALL, **change}, 0)
    after = trainer.traces
    assert after > before
    trainer.train({**SMALL, **change}, 1)
    assert trainer.traces == after
    if "width" not in change:
        assert differ(params, trainer.train(SMALL, 0)[0])


def test_the_last_examples_that_fill_no_batch_are_left_out(bench: Workbench) -> None:
    """A batch of all 341 examples is one step an epoch; its order does not matter to the mean."""
    trainer = Trainer(bench)
    whole = {"width": 4, "epochs": 1, "batch_size": 341, "learning_rate": 0.1, "optimizer": "sgd"}
    params, _ = trainer.train(whole, 0)

    prepared = bench.prepared(whole)
    start, _ = prepared.model.init(jax.random.fold_in(jax.random.key(0), 0))
    train = bench.data.train

    def loss(params: Arrays) -> jax.Array:
        return cross_entropy(prepared.model.predict(params, {}, train.inputs), train.targets)

    gradients = jax.jit(jax.grad(loss))(start)
    for name in params:  # Nesterov: the first step is (1 + 0.9) times the gradient
        expected = start[name] - 0.1 * 1.9 * gradients[name]
        np.testing.assert_allclose(params[name], expected, rtol=1e-4, atol=1e-6)


def test_a_training_that_diverges_says_when(bench: Workbench) -> None:
    wild = {"width": 8, "depth": 2, "epochs": 20, "optimizer": "sgd", "learning_rate": 1e6}
    with pytest.raises(DivergedError, match=r"the training loss is (nan|inf) in epoch \d+ of 20"):
        Trainer(bench).train(wild, 0)


def test_it_learns(bench: Workbench) -> None:
    candidate = {"width": 16, "depth": 1, "epochs": 10, "batch_size": 64, "learning_rate": 0.01}
    params, state = Trainer(bench).train(candidate, 0)
    held = bench.data.validation
    predict = bench.prepared(candidate).model.predict

    def score(params: Arrays) -> float:
        outputs = np.asarray(predict(params, state, held.inputs))
        return float((outputs.argmax(axis=1) == held.targets).mean())

    start, _ = bench.prepared(candidate).model.init(jax.random.key(0))
    assert score(params) > 0.9
    assert score(params) > score(start)


# Convolutions -------------------------------------------------------------------------------------

CONV = {"epochs": 2, "batch_size": 16, "learning_rate": 0.01}


def test_only_convolutions_are_trained_step_by_step(
    bench: Workbench, image_bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = []
    scan = jax.lax.scan

    def counted(*args: Any, **kwargs: Any) -> Any:
        scans.append(1)
        return scan(*args, **kwargs)

    monkeypatch.setattr(jax.lax, "scan", counted)
    Trainer(image_bench).train(CONV, 0)
    assert not scans
    Trainer(bench).train(SMALL, 0)
    assert scans


def test_both_ways_through_an_epoch_give_the_same_weights(
    image_bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped, _ = Trainer(image_bench).train(CONV, 0)
    again, _ = Trainer(image_bench).train(CONV, 0)
    assert_same(stepped, again)
    monkeypatch.setattr(Trainer, "_slow_in_loops", staticmethod(lambda prepared: False))
    scanned, _ = Trainer(image_bench).train(CONV, 0)
    start, _ = image_bench.prepared(CONV).model.init(jax.random.fold_in(jax.random.key(0), 0))
    assert stepped.keys() == scanned.keys()
    for name in stepped:
        np.testing.assert_allclose(stepped[name], scanned[name], rtol=0, atol=1e-5)
        assert np.abs(np.asarray(stepped[name]) - np.asarray(start[name])).max() > 1e-3


def test_arrays_come_to_the_host() -> None:
    found = to_numpy({"a": jax.numpy.arange(3)})
    assert type(found["a"]) is np.ndarray
    np.testing.assert_array_equal(found["a"], [0, 1, 2])
