"""Whether whole-number inputs lie within the tables that a model looks them up in.

JAX gives NaN for a row that is not there (`jnp.take`, Flax's embeddings), or takes the last one
(`table[tokens]`), without a word. Tried with the initial weights on the examples that go furthest.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from paretax.errors import UsageError
from paretax.evaluators.randomness import training_key
from paretax.evaluators.workbench import Prepared
from paretax.tasks import Split

_EXAMPLES = 16  # of each split, those with the largest inputs


def check_tokens(prepared: Prepared, splits: dict[str, Split]) -> None:
    """Refuse inputs beyond the rows of a table.

    Args:
        prepared: the model.
        splits: by name, of the task's own inputs.

    Raises:
        UsageError: names the split, its largest input, and the table's rows.
    """
    tables = [s for s in prepared.sites.values() if s.kind == "embedding"]
    inputs = splits["train"].inputs
    if not tables or inputs.dtype.kind not in "iu" or prepared.features.pipeline is not None:
        return
    params, state = jax.jit(prepared.init)(training_key(0), prepared.numbers)
    run = jax.jit(prepared.model.predict)
    for name, split in splits.items():
        flat = split.inputs.reshape(len(split), -1)
        furthest = np.argsort(-flat.max(axis=1), kind="stable")[:_EXAMPLES]
        chosen = np.resize(furthest, _EXAMPLES)  # one shape, one program
        largest = int(flat.max())
        for rows in sorted({table.shape[table.axes[0]] for table in tables}):
            if largest >= rows and _beyond(
                lambda x: np.asarray(run(params, state, x)), split.inputs[chosen], rows
            ):
                raise UsageError(
                    f"the {name} inputs go up to {largest}, and the model looks them up in a table "
                    f"of {rows} rows, where JAX gives NaN or the last row: give the table "
                    f"{largest + 1} rows, or map what is beyond it to a token of its own"
                )


def _beyond(predict: Callable[[np.ndarray], np.ndarray], inputs: np.ndarray, rows: int) -> bool:
    """Whether a model gives NaN, or the last row's outputs, for inputs that are not rows."""
    outputs = predict(inputs)
    last, first = (
        predict(np.where(inputs >= rows, row, inputs).astype(inputs.dtype)) for row in (rows - 1, 0)
    )
    if np.isnan(outputs).any():
        return not np.isnan(last).any()
    return bool(np.array_equal(outputs, last) and not np.array_equal(outputs, first))
