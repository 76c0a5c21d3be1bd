"""Splits of whatever users have their data in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from paretax.errors import UsageError
from paretax.tasks import Data, Split, split

ROWS = np.arange(30, dtype=np.float32)[:, None]


def sizes(data: Data) -> list[int]:
    return [len(part) for part in (data.train, data.validation, data.test)]


def assert_paired(data: Data, targets: np.ndarray) -> None:
    """Every example is there once, with its own target."""
    parts = (data.train, data.validation, data.test)
    places = np.concatenate([p.inputs[:, 0] for p in parts]).astype(int)
    assert sorted(places) == list(range(len(targets)))
    np.testing.assert_array_equal(np.concatenate([p.targets for p in parts]), targets[places])


@pytest.mark.parametrize(
    "targets",
    [
        np.linspace(-3, 9, 30),
        np.repeat(np.linspace(0, 9, 10), 3).astype(np.float32),
        np.random.default_rng(0).integers(0, 2, (30, 4)),
        np.zeros((30, 5, 5), np.uint8),
        np.random.default_rng(0).normal(size=(30, 1)),
    ],
    ids=["real", "whole reals", "several labels", "masks", "a column"],
)
def test_targets_that_are_no_classes(targets: np.ndarray) -> None:
    data = split(ROWS, targets, seed=3)
    assert sizes(data) == [18, 6, 6]
    assert_paired(data, targets)
    np.testing.assert_array_equal(split(ROWS, targets, seed=3).test.inputs, data.test.inputs)
    assert not np.array_equal(split(ROWS, targets, seed=4).test.inputs, data.test.inputs)


def test_lists() -> None:
    data = split(ROWS.tolist(), [0, 1, 2] * 10)
    assert sizes(data) == [18, 6, 6]
    assert_paired(data, np.arange(30) % 3)
    assert np.bincount(data.test.targets).tolist() == [2, 2, 2]


def test_the_older_name_of_targets() -> None:
    one, other = split(ROWS, labels=np.arange(30) % 3), split(ROWS, np.arange(30) % 3)
    np.testing.assert_array_equal(one.test.inputs, other.test.inputs)
    with pytest.raises(UsageError, match="`targets`, once"):
        split(ROWS)
    with pytest.raises(UsageError, match="`targets`, once"):
        split(ROWS, [0, 1, 2] * 10, labels=[0, 1, 2] * 10)


def test_counts_are_no_classes_if_so_told() -> None:
    counts = np.arange(30)
    with pytest.raises(UsageError, match=r"got 1 of class 0: .* stratify=False"):
        split(ROWS, counts)
    assert_paired(split(ROWS, counts, stratify=False), counts)
    with pytest.raises(UsageError, match="only one label an example"):
        split(ROWS, np.zeros((30, 2), int), stratify=True)


def test_tables() -> None:
    index = np.random.default_rng(0).permutation(30)
    table = pd.DataFrame({"place": np.arange(30), "real": 0.5, "flag": True}, index=index)
    table["gaps"] = pd.array([None, *range(29)], dtype="Int64")
    column = pd.Series(np.arange(30) % 3, index=index)
    data = split(table, column)
    assert data.train.inputs.dtype == np.float64
    assert data.train.inputs.shape == (18, 4)
    assert_paired(data, column.to_numpy())
    parts = [data.train.inputs, data.validation.inputs, data.test.inputs]
    assert np.isnan(np.concatenate(parts)[:, 3]).sum() == 1


def test_tables_whose_rows_are_numbered_otherwise() -> None:
    table = pd.DataFrame({"place": np.arange(30.0)})
    column = pd.Series(np.arange(30) % 3).sample(frac=1, random_state=0)
    with pytest.raises(UsageError, match=r"different indexes.*targets.loc\[inputs.index\]"):
        split(table, column)
    assert_paired(split(table, column.loc[table.index]), np.arange(30) % 3)
    assert_paired(split(table, column.to_numpy()), column.to_numpy())


def test_columns_without_numbers_are_named() -> None:
    table = pd.DataFrame({"age": np.arange(30), "sex": ["f", "m"] * 15})
    table["day"] = pd.Timestamp("2020-01-01")
    with pytest.raises(UsageError, match=r"do not: 'sex' \(.*\), 'day' \(datetime64.*get_dummies"):
        split(table, np.arange(30) % 3)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": ROWS, "mask": ROWS}, r"one array .*, got a dict of 2: .* side by side"),
        ((ROWS, ROWS), r"one array .*, got a tuple of 2"),
        (iter([(ROWS, ROWS)]), "loaders and iterators of batches are not supported"),
        (sparse.csr_matrix(ROWS), r"sparse matrix.*inputs.toarray\(\)"),
        ([[1.0], [2.0, 3.0]] * 15, "all examples must have one shape: pad or cut"),
        (7.0, "one array"),
    ],
)
def test_inputs_that_are_no_array(inputs: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split(inputs, np.arange(30) % 3)


@pytest.mark.parametrize("labels", [["a", None] * 15, ["a", 1] * 15])
def test_labels_of_several_kinds(labels: list[Any]) -> None:
    with pytest.raises(UsageError, match=r"one kind|must hold numbers"):
        split(ROWS, np.array(labels, dtype=object))


def test_words_say_how_they_are_encoded() -> None:
    with pytest.raises(UsageError, match=r"return_inverse=True\)\[1\]"):
        split(ROWS, ["cat", "dog", "owl"] * 10)


def test_data_of_several_arrays_is_refused() -> None:
    good = Split(ROWS, np.arange(30) % 3)
    for inputs in ({"x": ROWS}, (ROWS, ROWS), iter([ROWS])):
        with pytest.raises(UsageError, match="the validation inputs must be one array"):
            Data(train=good, validation=Split(inputs, good.targets), test=good)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"must be a paretax.Split.*, got SimpleNamespace"):
        Data(train=SimpleNamespace(inputs=ROWS), validation=good, test=good)  # type: ignore[arg-type]
    other = Split(ROWS, np.zeros((30, 2)))
    with pytest.raises(UsageError, match=r"targets must have one shape, got \(2,\) an example in"):
        Data(train=good, validation=good, test=other)


def test_an_array_on_the_disk(tmp_path: Any) -> None:
    held = np.memmap(tmp_path / "rows.bin", np.float32, "w+", shape=ROWS.shape)
    held[:] = ROWS
    assert_paired(split(held, np.arange(30) % 3), np.arange(30) % 3)
