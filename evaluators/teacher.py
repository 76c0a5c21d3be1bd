"""What a teacher says of the training examples, computed once for all candidates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A teacher's outputs over the training split.

    Args:
        key: hash of everything that they depend on.
        teacher: what it is, in words.
        outputs: (examples, ...), logits.
        inner: what enters its last product, (examples, ...); None where that cannot be seen.
        score: the task's metric of the teacher on the validation split.
    """

    key: str
    teacher: str
    outputs: np.ndarray
    inner: np.ndarray | None
    score: float

    @cached_property
    def arrays(self) -> dict[str, jax.Array]:
        """What the training program takes, without features."""
        return {"teacher_outputs": jnp.asarray(self.outputs)}

    @cached_property
    def features(self) -> jax.Array | None:
        """Likewise, the features."""
        return None if self.inner is None else jnp.asarray(self.inner)
