"""What every technique of preprocessing is: a choice at one place, fitted, then compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from paretax.spaces.dimensions import Setting
from paretax.spaces.preprocessing.arithmetic import Pair

Values = Mapping[str, Any]
"""The settings that a technique reads, the one that chose it included."""

Arrays = Mapping[str, jax.Array]
"""The arrays of a fitted technique, by the names that it gave them."""

Apply = Callable[[Arrays, Pair, jax.Array], Pair]
"""Its arrays, the table so far and the raw inputs to the new table: pure, for any batch size. A
function of a module, not a closure: what differs between two candidates is in the arrays."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A technique after its fit on the training split.

    Args:
        arrays: float32 or int32, by name.
        apply: the compiled form, which reads them.
        reference: what scikit-learn computes: the table so far and the raw inputs, both float64
            (rows, features), to the new table, float64.
        words: what is done, for a report.
    """

    arrays: Mapping[str, np.ndarray]
    apply: Apply
    reference: Callable[[np.ndarray, np.ndarray], np.ndarray]
    words: str


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a technique meets: `features` columns (channels, of images and series), and rows."""

    features: int
    examples: int


def _same(values: Values, features: int) -> int:
    return features


def _nothing(values: Values, sizes: Sizes, targets: np.ndarray) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Technique:
    """One technique. To add one: write it in a file of its own, and name it in `TECHNIQUES`.

    Args:
        place: the setting that chooses it; techniques of one place exclude each other.
        name: the value of `place` that chooses it. Empty: any value but 0 or false does, and the
            first of `settings` is the place's own.
        settings: the ones that count only where it is chosen.
        fit: its values, the training table (rows, features) in float64 and the targets (rows, ...)
            to what is applied.
        features: its values and the columns before it to the columns after it.
        check: raises UsageError where it cannot be fitted.
        tabular: why it is refused for images and series; empty where it works on their channels.
        needs: a place where something must be chosen for this technique to have an effect.
    """

    place: str
    name: str = ""
    settings: tuple[Setting, ...] = ()
    fit: Callable[[Values, np.ndarray, np.ndarray], Fitted]
    features: Callable[[Values, int], int] = _same
    check: Callable[[Values, Sizes, np.ndarray], None] = _nothing
    tabular: str = ""
    needs: str = ""
