"""What users have their data in, as arrays of numbers; or what is wrong with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from paretax.errors import UsageError

ENCODED = "np.unique(labels, return_inverse=True)[1]"
"""What makes labels 0 to C - 1 of any others."""


def as_array(given: Any, what: str) -> np.ndarray:
    """An array of anything that NumPy can read.

    Args:
        given: an array, a list, a column of a table.
        what: it is, in words.

    Raises:
        UsageError: examples of several shapes, or a sparse matrix.
    """
    if hasattr(given, "toarray") and not hasattr(given, "__array__"):
        raise UsageError(
            f"the {what} are a sparse matrix, and dense arrays are trained on: give "
            f"{what}.toarray()"
        )
    try:
        return np.asarray(given)
    except ValueError as error:
        raise UsageError(
            f"the {what} must be one array, so all examples must have one shape: pad or cut them "
            f"to it ({error})"
        ) from error


def refuse_several(inputs: Any, what: str) -> None:
    """Refuse inputs of several arrays, and loaders of batches.

    Raises:
        UsageError: says how to give the same as one array.
    """
    if isinstance(inputs, dict | tuple) or (
        hasattr(inputs, "keys") and not hasattr(inputs, "__array__")
    ):
        parts = f"a {type(inputs).__name__} of {len(inputs)}"
        raise UsageError(
            f"{what} must be one array (examples, ...), got {parts}: models of several inputs are "
            "not supported yet; put them side by side in one array (np.concatenate along the last "
            "axis), and take them apart in the model"
        )
    if hasattr(inputs, "__next__") or not hasattr(inputs, "__len__"):
        raise UsageError(
            f"{what} must be one array (examples, ...), got {type(inputs).__name__}: loaders and "
            "iterators of batches are not supported; give the whole array (np.memmap leaves it on "
            "the disk)"
        )


def table_array(given: Any, what: str) -> np.ndarray:
    """An array of a table's columns, or of anything else as `as_array` reads it.

    Raises:
        UsageError: columns that hold no numbers, by name.
    """
    if not hasattr(given, "columns") or not hasattr(given, "__array__"):
        return as_array(given, what)
    columns = [(str(name), _column(given, i)) for i, name in enumerate(given.columns)]
    words = {name: column for name, column in columns if column.dtype.kind not in "iufb"}
    if words:
        named = ", ".join(f"{name!r} ({column.dtype})" for name, column in words.items())
        raise UsageError(
            f"every column of the {what} must hold numbers, and these do not: {named}; encode them "
            "(pandas.get_dummies makes a column a category) or leave them out"
        )
    if not columns:
        raise UsageError(f"the {what} are a table without columns: give some")
    return np.stack([column for _, column in columns], axis=1)


def _column(table: Any, place: int) -> np.ndarray:
    """A column; a gap in a column of nullable numbers is NaN."""
    column = table.iloc[:, place] if hasattr(table, "iloc") else table[table.columns[place]]
    array = np.asarray(column)
    if array.dtype.kind == "O" and getattr(column.dtype, "kind", "O") in "iufb":
        array = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return array


def check_numbers(array: np.ndarray, what: str) -> None:
    """Refuse arrays that hold no numbers.

    Raises:
        UsageError: with the remedy for labels and for inputs.
    """
    if array.dtype.kind not in "OSUMmc":
        return
    found = f"the {what} must hold numbers, got {array.dtype}"
    if array.size:
        found += f" such as {array.flat[0]!r}"
    if what.endswith("targets"):
        raise UsageError(f"{found}: labels become 0 to C - 1 by {ENCODED}")
    raise UsageError(f"{found}: encode them as numbers first")
