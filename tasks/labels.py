"""Class labels: one for each row of logits, whole numbers from 0 to C - 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from paretax.errors import UsageError
from paretax.tasks.arrays import ENCODED
from paretax.tasks.task import Split

_SHOWN = 8  # labels that an error lists


def check_labels(labels: Any, logits: tuple[int, ...], *, whole: bool = True) -> None:
    """Refuse what cannot be the labels of logits, by dtype and shape alone.

    Args:
        labels: (batch, ...), may be traced.
        logits: their shape, (batch, ..., classes).
        whole: whether they must be whole numbers by their dtype.

    Raises:
        UsageError: says what makes labels of it.
    """
    shape, dtype = tuple(labels.shape), np.dtype(labels.dtype)
    expected = tuple(logits[:-1])
    if len(logits) < 2:
        raise UsageError(
            "classification needs an output for each class, (batch, ..., classes), got outputs of "
            f"shape {tuple(logits)}: let the model return a logit a class, two where there are "
            "two classes"
        )
    if shape == expected and (dtype.kind in "iub" or not whole):
        return
    raise UsageError(
        f"classification needs whole-number labels of shape {expected} for outputs of shape "
        f"{tuple(logits)}, got {dtype} {shape}: {_remedy(shape, dtype, tuple(logits))}"
    )


def _remedy(shape: tuple[int, ...], dtype: np.dtype[Any], logits: tuple[int, ...]) -> str:
    expected = logits[:-1]
    if shape == (*expected, 1) and dtype.kind in "iub":
        return "give labels[..., 0]"
    if shape == expected:
        return (
            f"labels become 0 to C - 1 by {ENCODED}, and real values need a regression's loss and "
            "metric (see paretax.Task)"
        )
    if shape == logits:
        return (
            "one-hot labels become whole numbers by labels.argmax(-1), and several labels an "
            "example need a loss of sigmoids and a metric of your own (see paretax.Task)"
        )
    return "give one label for each row of logits, or a loss and a metric of your own"


def check_range(splits: Mapping[str, Split], classes: int, outputs: tuple[int, ...]) -> None:
    """Refuse labels that are not 0 to C - 1 in any of the splits.

    JAX takes -1 for the last class, and gives NaN for a class that is not there.

    Args:
        splits: by name; their targets are whole-number labels.
        classes: how many outputs an example or position has.
        outputs: shape of an example's outputs, for the message.

    Raises:
        UsageError: names the labels, the outputs, and the remedy.
    """
    ends = {n: (np.min(split.targets), np.max(split.targets)) for n, split in splits.items()}
    outside = [name for name, (low, high) in ends.items() if low < 0 or high >= classes]
    if not outside:
        return
    found = np.unique(np.concatenate([np.unique(s.targets) for s in splits.values()]))
    remedy = f"encode them with {ENCODED}"
    if found[0] >= 0 and len(found) > classes:
        remedy = f"give the model {max(len(found), int(found[-1]) + 1)} outputs"
        if classes == 1:
            remedy += ", or a loss of sigmoids and a metric of your own (see paretax.Task)"
    elif found[0] < 0 and len(found) > classes:
        remedy += f", and give the model {len(found)} outputs"
    raise UsageError(
        f"labels must be 0 to {classes - 1} for a model with {classes} outputs "
        f"(shape {outputs} an example), got {_listed(found)} in {outside[0]}: {remedy}"
    )


def _listed(labels: np.ndarray) -> str:
    """Labels in words, the first and last ones of many."""
    if len(labels) <= _SHOWN:
        return ", ".join(map(str, labels.tolist()))
    first, last = labels[: _SHOWN - 2].tolist(), labels[-2:].tolist()
    return f"{', '.join(map(str, first))}, ..., {', '.join(map(str, last))}"
