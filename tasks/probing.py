"""Whether a loss and a metric pair each output with its own target: tried on made-up outputs.

NumPy and JAX compute on with arrays of different shapes: the difference of (n, 1) outputs and (n,)
targets is an (n, n) matrix, whose mean has nothing to do with which target is whose. And an index
that is not there is another one, or NaN, in JAX. Both give numbers that are wrong without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paretax.errors import UsageError
from paretax.tasks.arrays import ENCODED
from paretax.tasks.classification import cross_entropy
from paretax.tasks.labels import check_labels, check_range
from paretax.tasks.task import Split, Task

_EXAMPLES = 32
_TRIES = 4  # orders of the targets that must all give the same value
_SAME = 1e-5  # relative difference that is rounding


def check_targets(task: Task, splits: Mapping[str, Split], outputs: jax.ShapeDtypeStruct) -> None:
    """Refuse targets that do not fit a model's outputs, before anything is trained.

    Args:
        task: its loss and metric are called.
        splits: by name.
        outputs: shape of a batch of the model's outputs.

    Raises:
        UsageError: labels that are not 0 to C - 1, shapes that broadcast.
    """
    shape = tuple(outputs.shape[1:])
    targets = np.asarray(next(iter(splits.values())).targets)
    if getattr(task, "loss_function", None) is cross_entropy:
        batch = jax.ShapeDtypeStruct((2, *targets.shape[1:]), targets.dtype)
        check_labels(batch, (2, *shape))
        check_range(splits, shape[-1], shape)
        return
    if not jnp.issubdtype(outputs.dtype, jnp.floating) or targets.dtype.kind not in "iufb":
        return
    examples = _examples(splits.values(), shape[-1] if shape else 1)
    with np.errstate(all="ignore"):
        program = jax.jit(task.loss)
        dtype = jnp.promote_types(outputs.dtype, jnp.float32)  # as in training
        loss = _quietly(lambda z, t: program(jnp.asarray(z, dtype), jnp.asarray(t)))
        metric = _quietly(task.metric.compute)
        for what, function in (("loss", loss), ("metric", metric)):
            _check_pairs(task.name, what, function, examples, shape)
        _check_indices(task.name, loss, examples, shape)


def _quietly(function: Callable[..., Any]) -> Callable[..., float]:
    """NaN where a function fails: what it raises is raised again where it counts."""

    def run(outputs: np.ndarray, targets: np.ndarray) -> float:
        try:
            return float(function(outputs, targets))
        except Exception:  # noqa: BLE001  the task's code may raise anything
            return float("nan")

    return run


def _examples(splits: Iterable[Split], classes: int) -> np.ndarray:
    """Targets of some examples of each split, those that are no index of a class first."""
    found = []
    for part in splits:
        targets = np.asarray(part.targets)
        first = np.arange(len(targets))
        if targets.dtype.kind in "iu":
            flat = targets.reshape(len(targets), -1)
            odd = ((flat < 0) | (flat >= classes)).any(axis=1)
            first = np.argsort(~odd, kind="stable")
        found.append(targets[first[:_EXAMPLES]])
    return np.concatenate(found)


def _outputs(targets: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Made-up outputs: of size 1, and of the targets' own size."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(len(targets), *shape)).astype(np.float32)
    yield drawn
    yield (targets.mean() + max(float(targets.std()), 1e-6) * drawn).astype(np.float32)


def _same(one: float, other: float) -> bool:
    return bool(abs(one - other) <= _SAME * max(abs(one), abs(other)))


def _check_pairs(
    name: str,
    what: str,
    function: Callable[..., float],
    targets: np.ndarray,
    shape: tuple[int, ...],
) -> None:
    """Refuse a function of (n, ...) and (n, ...) that does not see which target is whose."""
    own = targets.shape[1:]
    if own == shape or len(own) == len(shape):
        return  # no axis of examples meets another axis
    rng = np.random.default_rng(1)
    orders = [rng.permutation(len(targets)) for _ in range(_TRIES)]
    others = targets[np.zeros(len(targets), int)], targets[np.full(len(targets), -1)]
    blind = False
    for outputs in _outputs(targets, shape):
        value = function(outputs, targets)
        if not np.isfinite(value):
            continue
        if not all(_same(value, function(outputs, targets[order])) for order in orders):
            return
        blind |= not all(_same(value, function(outputs, other)) for other in others)
    if blind:
        raise UsageError(
            f"the {what} of task {name!r} does not depend on which target belongs to which output: "
            f"outputs of shape {('n', *shape)} and targets of shape {('n', *own)} are broadcast "
            "against each other; give both the same shape, such as outputs[..., 0] or "
            "targets[..., None]".replace("'n'", "n")
        )


def _check_indices(
    name: str, loss: Callable[..., float], targets: np.ndarray, shape: tuple[int, ...]
) -> None:
    """Refuse labels that a loss takes for those of other classes, or for none."""
    if targets.dtype.kind not in "iu" or not shape or targets.shape[1:] != shape[:-1]:
        return
    classes = shape[-1]
    signed = targets.astype(np.int64)
    inside = (signed >= 0) & (signed < classes)
    if inside.all():
        return
    outputs = next(_outputs(targets, shape))
    value = loss(outputs, targets)
    plain = loss(outputs, np.clip(signed, 0, classes - 1).astype(targets.dtype))
    wrapped = loss(outputs, np.where(signed < 0, signed + classes, signed).astype(targets.dtype))
    why = None
    if np.isfinite(plain) and np.isnan(value):
        why = "the loss is NaN for them"
    elif np.isfinite(value) and _same(value, plain):
        why = "the loss takes them for the first or the last class"
    elif np.isfinite(value) and (signed < 0).any() and _same(value, wrapped):
        why = "the loss takes -1 for the last class"
    elif len(shape) == 1 and np.isfinite(value):
        changed = np.where(inside[:, None], outputs, outputs[::-1] + 1.0).astype(np.float32)
        if _same(value, loss(changed, targets)):
            why = "the loss leaves these examples out"
    if why is not None:
        found = ", ".join(map(str, np.unique(targets[~inside])[:8].tolist()))
        raise UsageError(
            f"task {name!r} has labels {found}, its model {classes} outputs (shape {shape} an "
            f"example), and {why}: labels must be 0 to {classes - 1}; encode them with {ENCODED}"
        )
