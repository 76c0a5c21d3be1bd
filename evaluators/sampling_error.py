"""How far a metric may be off because a split holds only so many examples: the bootstrap.

B. Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 7(1), 1979,
doi:10.1214/aos/1176344552.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_RESAMPLES = 200
_FEWEST = 20
_VALUES = 20_000_000  # outputs that are looked at in all, beyond which there are fewer resamples


def sampling_error(
    compute: Callable[[np.ndarray, np.ndarray], float], outputs: np.ndarray, targets: np.ndarray
) -> float | None:
    """The standard error of a metric over a split, from examples drawn again with replacement.

    Args:
        compute: the metric, (outputs, targets) -> a number.
        outputs: (examples, ...).
        targets: (examples, ...).

    Returns:
        In the metric's unit, the same one each time; None where the metric has no value for most
        resamples (a class that is missing in them), or there are fewer than two examples.
    """
    examples = len(outputs)
    if examples < 2:
        return None
    resamples = min(_RESAMPLES, max(_FEWEST, _VALUES // max(1, outputs.size)))
    rng = np.random.default_rng(0)
    found = []
    for _ in range(resamples):
        drawn = rng.integers(examples, size=examples)
        try:
            value = float(compute(outputs[drawn], targets[drawn]))
        except Exception:  # noqa: BLE001  the task's code may refuse such examples in any way
            continue
        if np.isfinite(value):
            found.append(value)
    if 2 * len(found) < resamples:
        return None
    return float(np.std(found, ddof=1))
