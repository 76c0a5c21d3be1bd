"""Workbenches that the evaluators' tests share: a real small task, and toy images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from paretax.evaluators import Workbench
from paretax.tasks import Data, Split, SupervisedTask, classification
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
