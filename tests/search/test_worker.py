"""A worker: what a user may expect to fail comes back as a reason."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.evaluators import (
    AccuracyEvaluator,
    Evaluation,
    Failure,
    Measurement,
    Provenance,
    Reason,
    Target,
)
from paretax.evaluators.measured import MeasuredEvaluator
from paretax.search.worker import Worker, WorkerSpec
from paretax.spaces import Candidate
from paretax.tasks import Data, load_task

TASK = """\
from dataclasses import replace

from paretax.tasks.breast_cancer import task as given


def build(config, rngs, inputs):
    if config["width"] == 13:
        raise ValueError("width 13 is unlucky\\nand more of it")
    if config["width"] == 14:
        raise MemoryError("the build is too large")
    if config["width"] == 15:
        return "no model"
    return given.model(config, rngs, inputs)


task = replace(given, model=build)
"""

LATE = """\
from dataclasses import replace
from math import nan

from paretax.tasks.breast_cancer import task as given

TEST = len(given.load().test)


def compute(outputs, labels):
    same = (outputs.argmax(axis=-1) == labels).mean()
    return WRONG if len(labels) == TEST else same


load = given.load


def shorter():
    data = load()
    held = data.validation
    part = replace(held, inputs=held.inputs[1:], targets=held.targets[1:])
    return replace(data, validation=part)


task = replace(given, load=shorter, metric=replace(given.metric, compute=compute))
"""

SMALL = Candidate({"width": 3, "depth": 1, "epochs": 1, "batch_size": 64})


def spec(task: str = "breast_cancer", **changes: Any) -> WorkerSpec:
    plain: dict[str, Any] = {
        "task": task,
        "search_path": (),
        "targets": (Target.of("cpu"),),
        "wanted": ("accuracy", "size"),
        **changes,
    }
    return WorkerSpec(**plain)


@pytest.fixture
def picky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker on a task whose build refuses some widths."""
    (tmp_path / "picky_task.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)
    yield Worker(spec("picky_task:task"))
    del sys.modules["picky_task"]


@pytest.fixture(scope="module")
def worker() -> Worker:
    """On the breast cancer task; has trained nothing yet."""
    return Worker(spec(wanted=("accuracy", "latency", "size")))


def worker_data() -> Data:
    """Of the breast cancer task."""
    return load_task("breast_cancer", []).data()


def width(value: int) -> Candidate:
    return Candidate({**SMALL, "width": value})


@pytest.mark.parametrize("method", ["score", "train"])
def test_a_build_that_raises_is_a_failure_with_its_message(picky: Worker, method: str) -> None:
    evaluation: Evaluation = getattr(picky, method)(width(13), 0)
    assert evaluation.measurements == ()
    assert evaluation.weights is None
    failure = evaluation.failure
    assert failure is not None
    assert failure.reason is Reason.BUILD_ERROR
    assert re.fullmatch(
        r"ValueError: width 13 is unlucky \(picky_task\.py:8\) \(after \d+\.\d s\)",
        failure.message,
    )
    assert failure.violation == 0.0


def test_a_build_without_a_model_is_a_failure_that_says_so(picky: Worker) -> None:
    failure = picky.score(width(15), 0).failure
    assert failure is not None
    assert failure.reason is Reason.BUILD_ERROR
    assert "must return a flax.nnx module" in failure.message
    assert "got str" in failure.message


def test_a_build_that_needs_too_much_memory_is_out_of_memory(picky: Worker) -> None:
    failure = picky.score(width(14), 0).failure
    assert failure is not None
    assert failure.reason is Reason.OUT_OF_MEMORY
    assert failure.message.startswith("MemoryError: the build is too large")


def test_a_worker_goes_on_after_a_failure(picky: Worker) -> None:
    assert picky.score(width(13), 0).failure is not None
    evaluation = picky.score(SMALL, 0)
    assert evaluation.failure is None
    assert [m.objective for m in evaluation.measurements] == ["size"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
            Reason.OUT_OF_MEMORY,
        ),
        (jax.errors.JaxRuntimeError("INTERNAL: RESOURCE_EXHAUSTED at"), Reason.OUT_OF_MEMORY),
        (jax.errors.JaxRuntimeError("INTERNAL: no such instruction"), Reason.COMPILE_ERROR),
        (jax.errors.JaxRuntimeError("UNIMPLEMENTED: s4 x s4"), Reason.COMPILE_ERROR),
        (jax.errors.JaxRuntimeError(""), Reason.COMPILE_ERROR),
        (MemoryError(), Reason.OUT_OF_MEMORY),
        (UsageError("the rule, the value"), Reason.BUILD_ERROR),
        (TypeError("a bad shape"), Reason.BUILD_ERROR),
        (KeyError("name"), Reason.BUILD_ERROR),
        (StopIteration(), Reason.BUILD_ERROR),
        (GeneratorExit(), Reason.BUILD_ERROR),
        (type("Odd", (BaseException,), {})("of its own kind"), Reason.BUILD_ERROR),
        (SystemExit(3), Reason.BUILD_ERROR),
    ],
    ids=repr,
)
@pytest.mark.parametrize("method", ["score", "train"])
def test_what_an_evaluator_raises_becomes_a_reason(
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    error: BaseException,
    reason: Reason,
) -> None:
    def evaluate(self: object, candidate: Mapping[str, Any], seed: int) -> Evaluation:
        raise error

    evaluator = MeasuredEvaluator if method == "score" else AccuracyEvaluator
    monkeypatch.setattr(evaluator, "evaluate", evaluate)
    evaluation: Evaluation = getattr(worker, method)(SMALL, 0)
    assert evaluation.failure is not None
    assert evaluation.failure.reason is reason
    first = str(error).splitlines()[:1]
    assert all(line in evaluation.failure.message for line in first)
    assert re.search(r" \(after \d+\.\d s\)$", evaluation.failure.message)
    if not isinstance(error, UsageError):
        assert evaluation.failure.message.startswith(f"{type(error).__name__}: ")
        assert "(test_worker.py:" in evaluation.failure.message
    # what was measured before it is kept
    kept = ["size"] if method == "score" else []
    assert [m.objective for m in evaluation.measurements] == kept


def told_to_end(signal: int) -> None:
    """What Ray has a worker do on SIGTERM."""
    exec("raise SystemExit(signal)", {"__name__": "ray._private.worker", "signal": signal})


def interrupted(signal: int) -> None:
    """Ctrl-C."""
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("end", "error"), [(interrupted, KeyboardInterrupt), (told_to_end, SystemExit)]
)
def test_an_interruption_is_no_failure(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, end: Any, error: type[BaseException]
) -> None:
    def evaluate(self: object, candidate: Mapping[str, Any], seed: int) -> Evaluation:
        end(15)
        raise AssertionError("it went on")

    monkeypatch.setattr(MeasuredEvaluator, "evaluate", evaluate)
    with pytest.raises(error):
        worker.score(SMALL, 0)


def test_costs_come_without_a_training(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, candidate: Mapping[str, Any], seed: int) -> Evaluation:
        raise AssertionError("it was trained")

    monkeypatch.setattr(AccuracyEvaluator, "evaluate", refuse)
    evaluation = worker.score(SMALL, 0)
    assert evaluation.failure is None
    assert evaluation.weights is None
    assert [m.objective for m in evaluation.measurements] == ["size", "latency", "memory"]


def test_a_training_gives_the_metric_and_the_weights(worker: Worker) -> None:
    evaluation = worker.train(SMALL, 0)
    (measurement,) = evaluation.measurements
    about = {"split": "validation", "steps": ["train epochs 1 to 1"]}
    assert measurement.objective == "accuracy"
    assert measurement.detail == {**about, "seconds": measurement.detail["seconds"]}
    weights = evaluation.weights
    assert weights is not None
    assert all(type(array) is np.ndarray for array in weights.values())

    kept = worker.test(SMALL, 0, weights, measurement.value).measurements
    trained_again = worker.test(SMALL, 0, None, measurement.value).measurements
    assert [m.value for m in kept] == [m.value for m in trained_again]
    assert kept[0].detail["split"] == "test"
    share, examples = kept[0].value, len(worker_data().test)
    binomial = np.sqrt(share * (1 - share) / examples)
    assert kept[0].detail["standard_error"] == pytest.approx(binomial, rel=0.2)
    zeros = {name: np.zeros_like(array) for name, array in weights.items()}
    assert worker.test(SMALL, 0, zeros, measurement.value).measurements[0].value != kept[0].value


def test_a_further_seed_gives_the_metric_with_its_standard_error(worker: Worker) -> None:
    plain, again = worker.train(SMALL, 7), worker.repeat(SMALL, 7)
    assert again.weights is None
    (measurement,) = again.measurements
    assert measurement.value == plain.measurements[0].value
    assert 0 < measurement.detail["standard_error"] < 0.1
    assert worker.repeat(SMALL, 8).measurements[0].value != measurement.value
    wild = Candidate({**SMALL, "learning_rate": 1e30})
    failure = worker.repeat(wild, 0).failure
    assert failure is not None
    assert failure.reason is Reason.DIVERGED


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("nan", "the metric accuracy is nan, and must be finite"), ("1 / 0", "ZeroDivisionError")],
)
def test_a_metric_that_fails_on_the_test_split_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, message: str
) -> None:
    (tmp_path / "late_task.py").write_text(LATE.replace("WRONG", wrong))
    monkeypatch.syspath_prepend(tmp_path)
    late = Worker(spec("late_task:task"))
    trained = late.train(SMALL, 0)
    assert trained.failure is None
    assert late.repeat(SMALL, 1).failure is None
    tested = late.test(SMALL, 0, trained.weights, trained.measurements[0].value)
    del sys.modules["late_task"]
    assert tested.measurements == ()
    assert tested.failure is not None
    assert message in tested.failure.message


def test_weights_that_came_out_otherwise_are_not_tested(worker: Worker) -> None:
    evaluation = worker.test(SMALL, 0, None, 0.123)
    assert evaluation.measurements == ()
    assert evaluation.failure is not None
    assert "it scored 0.123 in the search" in evaluation.failure.message


def test_a_training_that_diverges_is_a_failure_and_cannot_be_tested(worker: Worker) -> None:
    wild = Candidate({**SMALL, "learning_rate": 1e30})
    evaluation = worker.train(wild, 0)
    assert evaluation.failure is not None
    assert evaluation.failure.reason is Reason.DIVERGED
    tested = worker.test(wild, 0, None, 0.9).failure
    assert tested is not None
    assert tested.reason is Reason.DIVERGED


def test_calls_are_run_one_by_one(worker: Worker) -> None:
    found = worker.run("score", [(SMALL, 0), (SMALL, 1)])
    first = next(found)
    assert {m.objective for m in first.measurements} >= {"size"}
    assert [m.value for m in next(found).measurements] == [m.value for m in first.measurements]
    assert next(found, None) is None


def test_what_is_known_is_not_measured_again(worker: Worker) -> None:
    before = worker.score(SMALL, 0).measurements
    known = tuple(m for m in before if m.target)
    altered = tuple(
        Measurement.from_json({**m.to_json(), "value": 123.0, "provenance": "measured"})
        for m in known
    )
    resumed = Worker(spec(wanted=("latency",), known=altered))
    found = resumed.score(SMALL, 0).measurements
    assert [(m.objective, m.value) for m in found if m.target] == [
        ("latency", 123.0),
        ("memory", 123.0),
    ]
    assert found[0].provenance is Provenance.MODELLED


class Away:
    """A device of another machine, that says what it is told to."""

    provides = ("latency",)

    def __init__(self, said: Evaluation) -> None:
        self._said = said

    def evaluate(self, candidate: Mapping[str, Any], seed: int) -> Evaluation:
        """What it was told."""
        return self._said


def test_what_is_measured_elsewhere_joins_what_is_known_here() -> None:
    there = Target.of("h100", accelerator_type="H100")
    latency = Measurement(
        objective="latency",
        value=7.0,
        unit="us",
        provenance=Provenance.MEASURED,
        target="h100",
    )
    made = spec(targets=(there,), wanted=("size", "latency"))
    found = Worker(made, [Away(Evaluation(measurements=(latency,)))]).score(SMALL, 0)
    assert [m.objective for m in found.measurements] == ["size", "latency"]
    assert found.measurements[1] == latency
    lost = Failure(reason=Reason.WORKER_LOST, message="it is gone")
    found = Worker(made, [Away(Evaluation(failure=lost))]).score(SMALL, 0)
    assert found.failure == lost


def test_a_spec_can_be_sent_to_another_process() -> None:
    made = spec(search_path=("a", "b"))
    assert pickle.loads(pickle.dumps(made)) == made


def test_a_task_or_device_that_does_not_exist_is_misuse() -> None:
    with pytest.raises(UsageError, match="unknown task 'breast'"):
        Worker(spec("breast"))
    with pytest.raises(UsageError, match="'h100' is to be measured"):
        Worker(spec(targets=(Target.of("h100", measure=True),), wanted=("latency",)))
