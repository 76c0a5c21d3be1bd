"""Helpers for classification: loss, accuracy, and a task in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from paretax.errors import UsageError
from paretax.tasks.labels import check_labels
from paretax.tasks.task import Config, Data, Metric, SupervisedTask


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean softmax cross-entropy of logits (batch, ..., classes) against whole labels (batch, ...).

    Raises:
        UsageError: labels of another shape, or that are not whole numbers.
    """
    check_labels(labels, logits.shape)
    losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    check_labels(labels, logits.shape, whole=False)
    if logits.shape[-1] < 2:
        raise UsageError(
            f"accuracy needs an output for each class, got outputs of shape {logits.shape}: let "
            "the model return two logits, or give a metric of your own"
        )
    return float((logits.argmax(axis=-1) == labels).mean())


accuracy = Metric(name="accuracy", direction="maximize", compute=_accuracy)
"""The share of examples whose largest logit is at their label."""


def classification(
    name: str,
    *,
    load: Callable[[], Data],
    build: Callable[..., Any],
    defaults: Config,
    metric: Metric = accuracy,
) -> SupervisedTask:
    """A task that trains on the cross-entropy of logits.

    Args:
        name: short, for titles and file names.
        load: returns the `Data`; see `split`.
        build: `build(config, rngs)` returns the model; see `Task.build`.
        defaults: the parameters that `build` reads, with their defaults.
        metric: what the model is judged by.
    """
    return SupervisedTask(
        name=name,
        metric=metric,
        load=load,
        model=build,
        loss_function=cross_entropy,
        outputs="classes",
        defaults=defaults,
    )
