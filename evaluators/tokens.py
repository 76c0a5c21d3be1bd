"""Whether whole-number inputs lie within the tables that a model looks them up in.

JAX gives NaN for a row that is not there (`jnp.take`, Flax's embeddings), or takes the last one
(`table[tokens]`), and counts negative numbers from the end, without a word. Tried with the initial
weights on the examples that go furthest. A model that masks such inputs, or maps them to a row, is
let through.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from paretax.errors import UsageError
from paretax.evaluators.randomness import training_key
from paretax.evaluators.workbench import Prepared
from paretax.tasks import Split

_EXAMPLES = 16  # of each split, those with the largest inputs, and those with the smallest


def check_tokens(prepared: Prepared, splits: dict[str, Split]) -> None:
    """Refuse inputs beyond the rows of a table, and negative ones.

    Args:
        prepared: the model.
        splits: by name, of the task's own inputs.

    Raises:
        UsageError: names the split, its largest or smallest input, and the table's rows.
    """
    tables = [s for s in prepared.sites.values() if s.kind == "embedding"]
    inputs = splits["train"].inputs
    if not tables or inputs.dtype.kind not in "iu" or prepared.features.pipeline is not None:
        return
    params, state = jax.jit(prepared.init)(training_key(0), prepared.numbers)
    run = jax.jit(prepared.model.predict)

    def predict(x: np.ndarray) -> np.ndarray:
        return np.asarray(run(params, state, x))

    for name, split in splits.items():
        flat = split.inputs.reshape(len(split), -1)
        largest, smallest = int(flat.max()), int(flat.min())
        highest = _furthest(split.inputs, -flat.max(axis=1).astype(np.int64))
        lowest = _furthest(split.inputs, flat.min(axis=1))
        for rows in sorted({table.shape[table.axes[0]] for table in tables}):
            looked_up = f"and the model looks them up in a table of {rows} rows"
            if largest >= rows and _beyond(predict, highest, rows):
                raise UsageError(
                    f"the {name} inputs go up to {largest}, {looked_up}, where JAX gives NaN or "
                    f"the last row: give the table {largest + 1} rows, or map what is beyond it to "
                    "a token of its own"
                )
            if smallest < 0 and rows > 1 and _counted_back(predict, lowest, rows):
                raise UsageError(
                    f"the {name} inputs go down to {smallest}, {looked_up}, where JAX counts "
                    "negative numbers from the end (-1 is the last row): map them to a token of "
                    "their own, or mask them in the model"
                )


def _furthest(inputs: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The first examples by a number; always as many, so that there is one program."""
    return inputs[np.resize(np.argsort(order, kind="stable")[:_EXAMPLES], _EXAMPLES)]


def _beyond(predict: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, rows: int) -> bool:
    """Whether a model gives NaN, or the last row's outputs, for inputs that are not rows."""
    outputs = predict(inputs)
    last, first = (
        predict(np.where(inputs >= rows, row, inputs).astype(inputs.dtype)) for row in (rows - 1, 0)
    )
    if np.isnan(outputs).any():
        return not np.isnan(last).any()
    return bool(np.array_equal(outputs, last) and not np.array_equal(outputs, first))


def _counted_back(
    predict: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, rows: int
) -> bool:
    """Whether -1 and -2 give a model the last two rows of a table, and these differ."""

    def put(number: int) -> np.ndarray:
        return predict(np.where(inputs < 0, number, inputs).astype(np.int32))

    last, other = put(rows - 1), put(rows - 2)
    return (
        not np.array_equal(last, other)
        and np.array_equal(put(-1), last)
        and np.array_equal(put(-2), other)
    )
