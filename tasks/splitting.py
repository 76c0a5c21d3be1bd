"""One seeded split of arrays, lists or tables into train, validation and test."""

from __future__ import annotations

from typing import Any

import numpy as np

from paretax.errors import UsageError
from paretax.tasks.arrays import as_array, refuse_several, table_array
from paretax.tasks.task import Data, Split


def split(
    inputs: Any,
    targets: Any = None,
    *,
    labels: Any = None,
    validation: float = 0.2,
    test: float = 0.2,
    seed: int = 0,
    stratify: bool | None = None,
) -> Data:
    """A fixed, seeded split; class labels have the same shares in each part.

    Args:
        inputs: (examples, ...): an array, a list of examples, or a table (a pandas DataFrame) whose
            columns are all numbers.
        targets: (examples, ...): class labels (whole numbers, booleans or words, one an example),
            or anything else that has numbers: real values, several labels, masks.
        labels: the same, under another name; give one of the two.
        validation: share of the examples for validation.
        test: share for the test.
        seed: same seed, same split.
        stratify: whether each part gets its share of each class; None: where `targets` are class
            labels.

    Raises:
        UsageError: shares that leave nothing to train on, columns that are no numbers, rows of
            inputs and targets that belong to different examples, or what `Data` refuses.
    """
    if not 0 < validation < 1 or not 0 < test < 1 or validation + test >= 1:
        raise UsageError(
            "the shares of validation and test must be positive and leave something to train on, "
            f"got {validation} and {test}"
        )
    if (targets is None) == (labels is None):
        raise UsageError("split needs `targets`, once: split(inputs, targets)")
    given = labels if targets is None else targets
    refuse_several(inputs, "inputs")
    _check_rows(inputs, given)
    x, y = table_array(inputs, "inputs"), as_array(given, "targets")
    if x.ndim == 0 or y.ndim == 0:
        raise UsageError(
            "inputs and targets must be arrays with the examples first, got "
            f"{type(inputs).__name__} and {type(given).__name__}"
        )
    if len(x) != len(y):
        raise UsageError(f"there must be as many labels as inputs, got {len(y)} and {len(x)}")
    classes = (y.ndim == 1 and y.dtype.kind in "iubOSU") or len(y) == 0
    if classes if stratify is None else stratify:
        parts = _stratified(y, validation, test, seed)
    else:
        parts = _plain(len(y), validation, test, seed)
    train, held, final = (Split(x[np.sort(i)], y[np.sort(i)]) for i in parts)
    return Data(train=train, validation=held, test=final)


def _check_rows(inputs: Any, targets: Any) -> None:
    """Refuse tables whose rows are numbered otherwise: which belong together is not known."""
    one, other = getattr(inputs, "index", None), getattr(targets, "index", None)
    if callable(one) or callable(other) or one is None or other is None:
        return  # the method `index` of lists, or no table
    if len(one) == len(other) and not one.equals(other):
        raise UsageError(
            "the rows of inputs and targets have different indexes, so which target belongs to "
            "which row is not known: give targets.loc[inputs.index], or pair them by place with "
            "targets.to_numpy()"
        )


def _plain(count: int, validation: float, test: float, seed: int) -> tuple[np.ndarray, ...]:
    """Places of the three parts, whatever the targets are."""
    held, tested = (max(1, round(share * count)) for share in (validation, test))
    if held + tested >= count:
        raise UsageError(
            f"each of the three splits needs an example, and there are {count} of them: give more, "
            f"or smaller shares than {validation} and {test}"
        )
    order = np.random.default_rng(seed).permutation(count)
    return order[held + tested :], order[:held], order[held : held + tested]


def _stratified(
    labels: np.ndarray, validation: float, test: float, seed: int
) -> tuple[np.ndarray, ...]:
    """Places of the three parts, each with its share of each class."""
    if labels.ndim != 1:
        raise UsageError(
            f"only one label an example can be stratified, got targets of shape {labels.shape}: "
            "leave `stratify` out"
        )
    try:
        classes, counts = np.unique(labels, return_counts=True)
    except TypeError as error:
        raise UsageError(
            f"labels must be of one kind to be told apart, got {labels.dtype} ({error}): "
            "fill or drop what is missing, and make all of them words or whole numbers"
        ) from error
    if len(classes) < 2:
        raise UsageError(f"the labels must have at least two classes, got only {classes}")
    if counts.min() < 3:
        raise UsageError(
            f"each class needs an example in each of the three splits, got {counts.min()} of class "
            f"{classes[counts.argmin()]}: join rare classes; for numbers that are no classes "
            "(counts, prices) give stratify=False"
        )
    held, tested = (max(len(classes), round(share * len(labels))) for share in (validation, test))
    from sklearn.model_selection import train_test_split

    index = np.arange(len(labels))
    try:
        rest, final = train_test_split(index, test_size=tested, stratify=labels, random_state=seed)
        train, held_out = train_test_split(
            rest, test_size=held, stratify=labels[rest], random_state=seed
        )
    except ValueError as error:
        raise UsageError(
            f"each class needs an example in each of the three splits, and the shares {validation} "
            f"for validation and {test} for test leave too few: lower them ({error})"
        ) from error
    return train, held_out, final
