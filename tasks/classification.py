"""Helpers for classification: split, loss, accuracy, and a task in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from paretax.errors import UsageError
from paretax.tasks.task import Config, Data, Metric, Split, SupervisedTask


def split(
    inputs: np.ndarray,
    labels: np.ndarray,
    *,
    validation: float = 0.2,
    test: float = 0.2,
    seed: int = 0,
) -> Data:
    """A fixed, stratified, seeded split.

    Args:
        inputs: array (examples, ...).
        labels: whole numbers (examples,).
        validation: share of the examples for validation.
        test: share for the test.
        seed: same seed, same split.

    Raises:
        UsageError: shares that leave nothing to train on, or what `Data` refuses.
    """
    if not 0 < validation < 1 or not 0 < test < 1 or validation + test >= 1:
        raise UsageError(
            "the shares of validation and test must be positive and leave something to train on, "
            f"got {validation} and {test}"
        )
    labels = np.asarray(labels)
    if len(inputs) != len(labels):
        raise UsageError(
            f"there must be as many labels as inputs, got {len(labels)} and {len(inputs)}"
        )
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise UsageError(f"the labels must have at least two classes, got only {classes}")
    if counts.min() < 3:
        raise UsageError(
            f"each class needs an example in each of the three splits, got {counts.min()} of class "
            f"{classes[counts.argmin()]}"
        )
    held_out, tested = (
        max(len(classes), round(share * len(labels))) for share in (validation, test)
    )
    from sklearn.model_selection import train_test_split

    index = np.arange(len(labels))
    try:
        rest, test_index = train_test_split(
            index, test_size=tested, stratify=labels, random_state=seed
        )
        train_index, validation_index = train_test_split(
            rest, test_size=held_out, stratify=labels[rest], random_state=seed
        )
    except ValueError as error:
        raise UsageError(
            f"each class needs an example in each of the three splits, and the shares {validation} "
            f"for validation and {test} for test leave too few: lower them ({error})"
        ) from error
    parts = (train_index, validation_index, test_index)
    train, held, final = (Split(inputs[np.sort(i)], labels[np.sort(i)]) for i in parts)
    return Data(train=train, validation=held, test=final)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean softmax cross-entropy of logits (batch, classes) against whole labels (batch,)."""
    losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean()


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
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
        defaults=defaults,
    )
