"""A task's metric of a model's outputs."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from paretax.tasks import Task


def metric_of(task: Task, outputs: np.ndarray, targets: np.ndarray) -> float:
    """The metric over a whole split.

    It sees float32 where a model gives bfloat16 or float16: the same values, and NumPy's own sums
    of them would be wrong.

    Args:
        task: whose metric it is.
        outputs: (examples, ...), in the model's own dtype.
        targets: (examples, ...).
    """
    return float(task.metric.compute(widened(outputs), targets))


def widened(outputs: np.ndarray) -> np.ndarray:
    """Outputs in at least float32, if they are in floating point; equal values."""
    if jnp.issubdtype(outputs.dtype, jnp.floating) and outputs.dtype.itemsize < 4:
        return outputs.astype(np.float32)
    return outputs
