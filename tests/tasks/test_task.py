"""Data is checked when it is made, and a task is whatever has the members of one."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from paretax.errors import UsageError
from paretax.tasks import Config, Data, Metric, Split, SupervisedTask, Task
from paretax.tasks.task import call_build


def part(inputs: Any = ((0.0,), (1.0,)), targets: Any = (0, 1)) -> Split:
    return Split(np.asarray(inputs), np.asarray(targets))


GOOD = part()


def test_a_split_has_a_length() -> None:
    assert len(part(np.zeros((5, 2)), np.zeros(5))) == 5


@pytest.mark.parametrize("name", ["train", "validation", "test"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (part(np.zeros((0, 1)), np.zeros(0)), "the {} split is empty: it needs at least one exam"),
        (part([[0.0], [1.0]], [0, 1, 0]), "{} split must have as many .*, got 3 and 2"),
        (part([[0.0], [1.0]], [0]), "{} split must have as many targets as inputs, got 1 and 2"),
        (
            part([[math.inf], [-math.inf]]),
            "{} inputs must be finite or NaN .missing., got 2 infini",
        ),
        (part([[math.inf], [math.nan]]), "{} inputs must be finite or NaN .missing., got 1 infini"),
        (part(targets=[0.5, math.nan]), "the {} targets must be finite, got 1 NaN or infinite"),
        (part(targets=[0.5, math.inf]), "the {} targets must be finite, got 1 NaN or infinite"),
    ],
)
def test_data_that_is_refused(name: str, bad: Split, message: str) -> None:
    parts = {"train": GOOD, "validation": GOOD, "test": GOOD, name: bad}
    with pytest.raises(UsageError, match=message.format(name)):
        Data(**parts)


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_inputs_may_be_missing(name: str) -> None:
    """An imputation may fill them; without one, the search refuses them before it trains."""
    holed = part([[math.nan], [1.0]])
    parts = {"train": GOOD, "validation": GOOD, "test": GOOD, name: holed}
    assert getattr(Data(**parts), name) is holed


@pytest.mark.parametrize("name", ["validation", "test"])
def test_examples_have_one_shape(name: str) -> None:
    wide = part([[0.0, 1.0]], [1])
    with pytest.raises(UsageError, match=rf"one shape, got \(2,\) in {name} and \(1,\) in train"):
        Data(**{"train": GOOD, "validation": GOOD, "test": GOOD, name: wide})


@pytest.mark.parametrize("labels", [[1, 1], [True, True]])
def test_labels_of_a_single_class(labels: list[Any]) -> None:
    with pytest.raises(UsageError, match=f"at least two classes, got only {labels[0]}"):
        Data(train=part(targets=labels), validation=GOOD, test=GOOD)


def test_what_looks_like_one_class_but_is_none() -> None:
    """Equal real targets are a constant regression, and images of labels may be all background."""
    one = part(targets=[0.5, 0.5])
    assert Data(train=one, validation=one, test=one).train is one
    grid = part(targets=[[0, 0], [0, 0]])
    assert Data(train=grid, validation=grid, test=grid).train is grid
    held = part(targets=[1, 1])
    assert Data(train=GOOD, validation=held, test=held).test is held


# Tasks --------------------------------------------------------------------------------------------


def error(outputs: np.ndarray, targets: np.ndarray) -> float:
    return float(np.abs(outputs - targets).mean())


class Regression:
    """A user's own task: no base class, a `build` with one argument."""

    name = "regression"
    metric = Metric(name="error", direction="minimize", compute=error, unit="m")

    @property
    def defaults(self) -> Config:
        return {"width": 4}

    def data(self) -> Data:
        split = Split(np.zeros((2, 3), np.float32), np.zeros(2, np.float32))
        return Data(train=split, validation=split, test=split)

    def build(self, config: Config) -> nnx.Linear:
        return nnx.Linear(3, config["width"], rngs=nnx.Rngs(0))

    def loss(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return ((outputs - targets) ** 2).mean()


def test_any_object_with_the_members_is_a_task() -> None:
    assert isinstance(Regression(), Task)
    assert not isinstance(object(), Task)


def test_a_task_from_functions() -> None:
    task = SupervisedTask(
        name="mine",
        metric=Regression.metric,
        load=Regression().data,
        model=lambda config, rngs: nnx.Linear(3, config["width"], rngs=rngs),
        loss_function=Regression().loss,
        defaults={"width": 5},
    )
    assert isinstance(task, Task)
    assert len(task.data().train) == 2
    model = task.build(task.defaults, nnx.Rngs(1))
    assert model.kernel.shape == (3, 5)
    assert float(task.loss(np.ones(4), np.zeros(4))) == 1.0  # type: ignore[arg-type]
    assert task.metric.unit == "m"
    assert Metric(name="a", direction="maximize", compute=error).unit == ""


def test_build_takes_one_argument_or_two() -> None:
    config, rngs = {"width": 3}, nnx.Rngs(0)
    assert call_build(lambda config: config["width"], config, rngs) == 3
    assert call_build(lambda config, rngs: (config["width"], rngs), config, rngs) == (3, rngs)
    assert call_build(Regression().build, config, rngs).kernel.shape == (3, 3)
    task = SupervisedTask(
        name="mine",
        metric=Regression.metric,
        load=Regression().data,
        model=Regression().build,
        loss_function=Regression().loss,
        defaults={},
    )
    assert task.build(config, rngs).kernel.shape == (3, 3)


def test_a_metric_has_a_name_of_one_word_and_a_direction() -> None:
    with pytest.raises(UsageError, match="one word"):
        Metric(name="top-5", direction="maximize", compute=lambda outputs, targets: 0.0)
    with pytest.raises(UsageError, match="'up'"):
        Metric(
            name="top",
            direction="up",  # type: ignore[arg-type]
            compute=lambda outputs, targets: 0.0,
        )


def test_build_may_take_the_streams_by_name_alone() -> None:
    def build(config: Config, *, rngs: nnx.Rngs) -> tuple[Config, nnx.Rngs]:
        return config, rngs

    streams = nnx.Rngs(0)
    assert call_build(build, {"width": 4}, streams) == ({"width": 4}, streams)
