"""Splits, loss and accuracy of classification."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from paretax.errors import UsageError
from paretax.tasks import Data, Metric, accuracy, classification, cross_entropy, split


def parts(data: Data) -> list[list[int]]:
    return [part.inputs[:, 0].tolist() for part in (data.train, data.validation, data.test)]


def numbered(labels: Any, **options: Any) -> Data:
    """A split of examples that are their own numbers."""
    return split(np.arange(len(labels))[:, None], np.asarray(labels), **options)


@given(
    counts=st.lists(st.integers(3, 40), min_size=2, max_size=6),
    validation=st.floats(0.1, 0.3),
    test=st.floats(0.1, 0.3),
    seed=st.integers(0, 1000),
)
def test_splits_are_disjoint_complete_and_stratified(
    counts: list[int], validation: float, test: float, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    options = {"validation": validation, "test": test, "seed": seed}
    try:
        data = numbered(labels, **options)
    except UsageError as error:
        assert min(counts) < 6, error  # noqa: PT017
        return
    train, held, final = parts(data)
    assert sorted(train + held + final) == list(range(len(labels)))
    assert train == sorted(train)  # the order of the examples is kept
    for part in (data.train, data.validation, data.test):
        np.testing.assert_array_equal(labels[part.inputs[:, 0]], part.targets)
    for share, part in ((validation, data.validation), (test, data.test)):
        size = max(len(counts), round(share * len(labels)))
        assert len(part) == size
        found = Counter(part.targets.tolist())
        for label, count in enumerate(counts):
            assert abs(found[label] - count * size / len(labels)) < 2
    assert parts(numbered(labels, **options)) == [train, held, final]


def test_a_split_is_the_same_in_any_process() -> None:
    assert parts(numbered([0, 1] * 5)) == [[1, 2, 3, 4, 6, 9], [0, 5], [7, 8]]


def test_seeds_give_other_splits() -> None:
    assert parts(numbered([0, 1] * 20, seed=1)) != parts(numbered([0, 1] * 20, seed=2))


def test_default_shares() -> None:
    data = numbered([0, 1, 2, 3] * 25)
    assert [len(p) for p in (data.train, data.validation, data.test)] == [60, 20, 20]
    assert Counter(data.train.targets.tolist()) == {0: 15, 1: 15, 2: 15, 3: 15}


def test_the_fewest_examples_that_can_be_split() -> None:
    data = numbered([0, 1] * 3)
    assert [sorted(p.targets.tolist()) for p in (data.train, data.validation, data.test)] == (
        [[0, 1]] * 3
    )


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 1] * 9, {"validation": 0.0}, "shares .* must be positive .*, got 0.0 and 0.2"),
        ([0, 1] * 9, {"test": -0.1}, "must be positive and leave something"),
        ([0, 1] * 9, {"test": 0.5, "validation": 0.5}, "leave something to train on, got 0.5 and"),
        ([0, 1] * 9, {"test": math.nan}, "must be positive"),
        ([1] * 9, {}, r"the labels must have at least two classes, got only \[1\]"),
        ([], {}, r"the labels must have at least two classes, got only \[\]"),
        ([0] * 9 + [7] * 2, {}, "an example in each of the three splits, got 2 of class 7"),
        (
            [0] * 3 + [1] * 97,
            {"test": 0.6, "validation": 0.1},
            "the shares .* leave too few: lower",
        ),
        ([0, 1] * 3, {"test": 0.6, "validation": 0.3}, "the shares .* leave too few: lower them"),
    ],
)
def test_impossible_splits(labels: list[int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        numbered(labels, **options)


@pytest.mark.parametrize("count", [5, 7])
def test_labels_and_inputs_must_match(count: int) -> None:
    with pytest.raises(UsageError, match=f"as many labels as inputs, got 6 and {count}"):
        split(np.zeros((count, 2)), np.array([0, 1] * 3))


def test_what_data_refuses_is_refused() -> None:
    inputs = np.zeros((6, 1))
    inputs[3] = math.inf
    with pytest.raises(UsageError, match=r"must be finite or NaN .missing., got 1 infinite"):
        split(inputs, np.array([0, 1] * 3))


# Loss and metric ----------------------------------------------------------------------------------


def test_cross_entropy_is_its_formula() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 3))
    labels = np.array([0, 2, 1, 1, 0])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(shares[np.arange(5), labels]).mean()
    found = cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_of_large_logits_is_finite() -> None:
    found = cross_entropy(jnp.array([[1e4, -1e4]]), jnp.array([1]))
    assert float(found) == pytest.approx(2e4)
    assert float(cross_entropy(jnp.zeros((4, 10)), jnp.zeros(4, int))) == pytest.approx(
        math.log(10)
    )


def test_accuracy_is_the_share_of_hits() -> None:
    logits = np.array([[1.0, 0.0], [0.2, 0.1], [0.0, 3.0], [-2.0, -1.0]])
    assert accuracy.compute(logits, np.array([0, 1, 1, 1])) == 0.75
    assert accuracy.compute(logits, np.array([1, 1, 0, 0])) == 0.0
    assert (accuracy.name, accuracy.direction) == ("accuracy", "maximize")


def test_a_task_in_one_call() -> None:
    data = numbered([0, 1] * 5)
    own = Metric(name="loss", direction="minimize", compute=lambda outputs, targets: 0.0)
    arguments: dict[str, Any] = {
        "load": lambda: data,
        "build": lambda config, rngs: nnx.Linear(1, config["width"], rngs=rngs),
        "defaults": {"width": 2},
    }
    task = classification("mine", **arguments)
    assert task.name == "mine"
    assert task.data() is data
    assert task.defaults == {"width": 2}
    assert task.metric is accuracy
    assert task.build({"width": 3}, nnx.Rngs(0)).kernel.shape == (1, 3)
    assert float(task.loss(jnp.zeros((2, 2)), jnp.zeros(2, int))) == pytest.approx(math.log(2))
    assert classification("mine", metric=own, **arguments).metric is own
