"""Workbenches that the evaluators' tests share: a real small task, and toy images; a trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from paretax.evaluators import Lesson, Workbench
from paretax.evaluators.calibrating import Calibrator
from paretax.evaluators.training import Trainer, to_numpy
from paretax.tasks import Arrays, Data, Split, SupervisedTask, classification, cross_entropy
from paretax.tasks.breast_cancer import task as breast_cancer


class ConvNet(nnx.Module):
    """One convolution and a linear layer, on 6 x 6 images."""

    def __init__(self, channels: int, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, channels, (3, 3), strides=2, rngs=rngs)
        self.out = nnx.Linear(9 * channels, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.conv(x))
        return self.out(x.reshape(x.shape[0], -1))


def _images() -> Data:
    """Two classes: a bright upper half, or a bright lower half."""
    rng = np.random.default_rng(0)

    def part(count: int) -> Split:
        labels = np.arange(count, dtype=np.int32) % 2
        inputs = rng.normal(0.0, 0.5, (count, 6, 6, 1)).astype(np.float32)
        for image, label in zip(inputs, labels, strict=True):
            image[3 * label : 3 * label + 3] += 1.0
        return Split(inputs, labels)

    return Data(train=part(40), validation=part(20), test=part(20))


def _build(config: Any, rngs: nnx.Rngs) -> ConvNet:
    return ConvNet(config["channels"], rngs)


images = classification("images", load=_images, build=_build, defaults={"channels": 2})


@pytest.fixture(scope="session")
def bench() -> Workbench:
    """The breast cancer task: 341 training examples of 30 features."""
    return Workbench(breast_cancer)


@pytest.fixture(scope="session")
def image_bench() -> Workbench:
    """Toy images and a small convolutional model."""
    return Workbench(images)


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """The names of the functions that XLA compiles meanwhile."""
    names: list[str] = []

    def note(event: str, duration_secs: float, **about: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(str(about.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


Recorded = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="session")
def recording() -> Callable[[SupervisedTask], tuple[Workbench, Recorded]]:
    """A task's workbench whose metric also notes the outputs and targets that it is given."""

    def wrap(task: SupervisedTask) -> tuple[Workbench, Recorded]:
        seen: Recorded = []

        def compute(outputs: np.ndarray, targets: np.ndarray) -> float:
            seen.append((outputs, targets))
            return task.metric.compute(outputs, targets)

        return Workbench(replace(task, metric=replace(task.metric, compute=compute))), seen

    return wrap


# Training -----------------------------------------------------------------------------------------


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


Watching = Callable[..., tuple[Watched, dict[str, np.ndarray]]]
AssertSame = Callable[[Mapping[str, Any], Mapping[str, Any]], None]
Differ = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]


@pytest.fixture(scope="session")
def watched() -> Watching:
    """Trains, and gives what was seen on the way, and the parameters at the end."""

    def watch(
        trainer: Trainer, candidate: Mapping[str, Any], seed: int = 0, lesson: Lesson | None = None
    ) -> tuple[Watched, dict[str, np.ndarray]]:
        seen = Watched()
        params, *_ = trainer.train(candidate, seed, lesson, seen)
        return seen, to_numpy(params)

    return watch


@pytest.fixture(scope="session")
def assert_same() -> AssertSame:
    """Fails unless two sets of arrays are the same, bit for bit."""

    def check(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])

    return check


@pytest.fixture(scope="session")
def differ() -> Differ:
    """Whether any of two sets of arrays differ."""
    return lambda one, other: any(not np.array_equal(one[name], other[name]) for name in one)
