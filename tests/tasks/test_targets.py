"""Labels and targets that do not fit a model's outputs are refused before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from paretax.errors import UsageError
from paretax.tasks import Data, Metric, Split, SupervisedTask, accuracy, classification
from paretax.tasks.classification import cross_entropy
from paretax.tasks.probing import check_targets

Loss = Callable[[jax.Array, jax.Array], jax.Array]
LABELS = np.arange(60) % 3


def data(train: Any, test: Any = None) -> Data:
    train = np.asarray(train)
    inputs = np.zeros((len(train), 4), np.float32)
    last = train if test is None else np.asarray(test)
    part = Split(inputs, train)
    return Data(train=part, validation=part, test=Split(np.zeros((len(last), 4)), last))


def batch(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, *shape), jnp.float32)


def classes(found: Data) -> SupervisedTask:
    return classification("mine", load=lambda: found, build=lambda config: None, defaults={})


def own(found: Data, loss: Loss, metric: Metric | None = None) -> SupervisedTask:
    plain = Metric(name="zero", direction="minimize", compute=lambda outputs, targets: 0.0)
    return SupervisedTask(
        name="mine",
        metric=metric or plain,
        load=lambda: found,
        model=lambda config: None,
        loss_function=loss,
        defaults={},
    )


# Classification -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "outputs", "message"),
    [
        (2 * (LABELS % 2) - 1, 2, r"0 to 1 .* 2 outputs .* got -1, 1 in train: encode .*np.unique"),
        (LABELS % 2 + 1, 2, r"got 1, 2 in train: encode them with np.unique"),
        (LABELS % 2, 1, r"got 0, 1 in train: give the model 2 outputs, or a loss of sigmoids"),
        (LABELS, 2, r"got 0, 1, 2 in train: give the model 3 outputs"),
        (LABELS - 1, 2, r"got -1, 0, 1 in train: encode .*, and give the model 3 outputs"),
        (LABELS * 50, 3, r"got 0, 50, 100 in train: encode"),
        (np.arange(60), 3, r"got 0, 1, 2, 3, 4, 5, ..., 58, 59 in train: give the model 60"),
        ((LABELS - 1).astype(np.uint8), 3, r"got 0, 1, 255 in train: encode"),
    ],
)
def test_labels_that_no_output_stands_for(labels: Any, outputs: int, message: str) -> None:
    found = data(labels)
    with pytest.raises(UsageError, match=message):
        check_targets(classes(found), found.splits, batch(outputs))


def test_labels_of_the_test_split_alone_count_too() -> None:
    found = data(LABELS, [0, 1, 2, 3])
    with pytest.raises(UsageError, match="got 0, 1, 2, 3 in test"):
        check_targets(classes(found), found.splits, batch(3))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS.astype(np.float32), r"got float32 \(2,\): labels become .*np.unique"),
        (LABELS[:, None], r"got int64 \(2, 1\): give labels\[..., 0\]"),
        (np.eye(3)[LABELS], r"got float64 \(2, 3\): one-hot labels .* labels.argmax\(-1\)"),
        (np.eye(3, dtype=int)[LABELS], r"got int64 \(2, 3\): one-hot labels"),
        (np.eye(4)[LABELS], r"got float64 \(2, 4\): give one label for each row"),
    ],
)
def test_targets_that_are_no_labels(labels: Any, message: str) -> None:
    found = data(labels)
    with pytest.raises(UsageError, match=message):
        check_targets(classes(found), found.splits, batch(3))


@pytest.mark.parametrize("labels", [LABELS, LABELS % 2 * 2, LABELS > 0, LABELS.astype(np.uint8)])
def test_labels_that_fit(labels: Any) -> None:
    """Gaps are classes that the data does not have."""
    found = data(labels)
    check_targets(classes(found), found.splits, batch(3))
    per_position = data(np.stack([labels] * 5, axis=1))
    check_targets(classes(per_position), per_position.splits, batch(5, 3))


def test_words_are_refused_with_the_remedy() -> None:
    with pytest.raises(UsageError, match=r"must hold numbers, got <U3 such as .*'cat'.*np.unique"):
        data(np.array(["cat", "dog"] * 3))


def test_the_loss_and_the_metric_see_shapes_themselves() -> None:
    logits = jnp.zeros((6, 3))
    with pytest.raises(UsageError, match=r"labels\[..., 0\]"):
        cross_entropy(logits, jnp.zeros((6, 1), int))
    with pytest.raises(UsageError, match=r"labels\[..., 0\]"):
        accuracy.compute(np.zeros((6, 3)), np.zeros((6, 1), int))
    with pytest.raises(UsageError, match="an output for each class"):
        accuracy.compute(np.zeros((6, 1)), np.zeros(6, int))


# Losses of a user's own ---------------------------------------------------------------------------

REAL = np.random.default_rng(0).normal(3e4, 2.0, 60).astype(np.float32)


def squares(outputs: Any, targets: Any) -> Any:
    return ((outputs - targets) ** 2).mean()


def sigmoids(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    losses: jax.Array = optax.sigmoid_binary_cross_entropy(outputs, targets)
    return losses.mean()


@pytest.mark.parametrize("loss", [squares, sigmoids])
@pytest.mark.parametrize(("targets", "outputs"), [((60,), (1,)), ((60, 1), ())])
def test_a_loss_of_all_pairs_is_refused(
    loss: Loss, targets: tuple[int, ...], outputs: tuple[int, ...]
) -> None:
    values = REAL if loss is squares else (REAL > 3e4).astype(np.float32)
    found = data(values.reshape(targets))
    with pytest.raises(UsageError, match="the loss of task 'mine' does not depend on which target"):
        check_targets(own(found, loss), found.splits, batch(*outputs))
    check_targets(
        own(found, lambda o, t: loss(o.ravel(), t.ravel())), found.splits, batch(*outputs)
    )


def test_a_metric_of_all_pairs_is_refused() -> None:
    found = data(REAL)
    metric = Metric(name="mse", direction="minimize", compute=squares)
    task = own(found, lambda o, t: squares(o[:, 0], t), metric)
    with pytest.raises(UsageError, match=r"the metric .* shape \(n, 1\) and .* shape \(n,\) are"):
        check_targets(task, found.splits, batch(1))


def test_losses_that_do_not_look_at_targets_or_fail_are_let_through() -> None:
    """Nothing is known of them here; a loss that fails shows when it is traced."""
    found = data(REAL)
    check_targets(own(found, lambda o, t: (o**2).mean()), found.splits, batch(1))
    check_targets(own(found, lambda o, t: o @ jnp.ones((7, 7)) @ t), found.splits, batch(1))
    quantiles = data(REAL[:, None])
    check_targets(own(quantiles, squares), quantiles.splits, batch(5))


def picked(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    return -jax.nn.log_softmax(outputs)[jnp.arange(len(labels)), labels].mean()


def one_hot(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    return -(jax.nn.one_hot(labels, 3) * jax.nn.log_softmax(outputs)).sum(-1).mean()


def taken(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    return losses.mean()


def ignoring(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, jnp.maximum(labels, 0))
    return jnp.where(labels >= 0, losses, 0.0).sum() / (labels >= 0).sum()


@pytest.mark.parametrize("loss", [picked, one_hot, taken])
@pytest.mark.parametrize("shift", [-1, 1])
def test_labels_that_an_own_loss_misreads(loss: Loss, shift: int) -> None:
    found = data(LABELS + shift)
    with pytest.raises(UsageError, match=f"labels {-1 if shift < 0 else 3}, .* and the loss"):
        check_targets(own(found, loss), found.splits, batch(3))
    check_targets(own(data(LABELS), loss), data(LABELS).splits, batch(3))


def test_labels_that_an_own_loss_understands() -> None:
    """Padding of positions, margins of -1 and 1, thresholds of an ordinal scale."""
    padded = data(np.stack([LABELS, np.full(60, -1)], axis=1))
    check_targets(own(padded, ignoring), padded.splits, batch(2, 3))
    signs = data(2 * (LABELS % 2) - 1)
    check_targets(
        own(signs, lambda o, t: jax.nn.relu(1 - o[:, 0] * t).mean()), signs.splits, batch(1)
    )

    def ordinal(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        return sigmoids(outputs, (labels[:, None] > jnp.arange(2)).astype(jnp.float32))

    check_targets(own(data(LABELS), ordinal), data(LABELS).splits, batch(2))
