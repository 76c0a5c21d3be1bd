"""What a task says of its model's outputs: how a teacher's are matched depends on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp

from paretax.errors import UsageError, unknown
from paretax.tasks.classification import cross_entropy
from paretax.tasks.task import OutputKind, Task

DistillationLoss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(outputs, teacher_outputs, temperature) -> scalar"""

_SAY = (
    "add `outputs` to the task: 'classes' (logits of one label along the last axis), 'sigmoids' (a "
    "logit for each yes or no) or 'values' (real values); or a method "
    "distillation_loss(outputs, teacher_outputs, temperature)"
)


def outputs_of(task: Task) -> OutputKind | None:
    """What a model's outputs are; None where the task does not say.

    Raises:
        UsageError: the task says something else.
    """
    said = getattr(task, "outputs", None)
    if said is None:
        plain = getattr(task, "loss_function", None) is cross_entropy
        return "classes" if plain else None
    if said not in get_args(OutputKind):
        raise unknown("kind of outputs", str(said), get_args(OutputKind), f"task {task.name!r}")
    kind: OutputKind = said
    return kind


def own_distillation_loss(task: Task) -> DistillationLoss | None:
    """The task's own loss between a student's outputs and its teacher's; None: it has none."""
    found: DistillationLoss | None = getattr(task, "distillation_loss", None)
    return found


def check_distillation(
    task: Task, outputs: jax.ShapeDtypeStruct, *, temperature: bool = False
) -> None:
    """Refuse to distil where it is not known, or cannot be, how outputs are matched.

    Args:
        task: of student and teacher.
        outputs: shape of a batch of their outputs.
        temperature: whether a temperature is asked for.

    Raises:
        UsageError: the task does not say what its outputs are, or they are not that.
    """
    shape, own, kind = tuple(outputs.shape), own_distillation_loss(task), outputs_of(task)
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise UsageError(f"only real outputs can be distilled, got {outputs.dtype} {shape}")
    if own is not None:
        scalar = jax.ShapeDtypeStruct((), jnp.float32)
        found: Any = jax.eval_shape(own, outputs, outputs, scalar)
        if not isinstance(found, jax.ShapeDtypeStruct) or found.shape != ():
            raise UsageError(
                f"the distillation_loss of task {task.name!r} must be a scalar, got {found}"
            )
        return
    if kind is None:
        raise UsageError(
            f"task {task.name!r} has a loss of its own, so how a student's outputs are matched "
            f"with its teacher's is not known: {_SAY}"
        )
    if kind == "classes" and (len(shape) < 2 or shape[-1] < 2):
        raise UsageError(
            f"outputs of classes must be (batch, ..., classes) with two classes or more, got "
            f"{shape}: say 'sigmoids' for one logit, 'values' for real values"
        )
    if kind == "values" and temperature:
        raise UsageError(
            f"`temperature` softens logits, and the outputs of task {task.name!r} are values, "
            "which are matched as they are: leave it out"
        )
