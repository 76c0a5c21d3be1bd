"""What a user supplies: data, a model, a loss and a metric."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import numpy as np
from flax import nnx

from paretax.errors import UsageError
from paretax.tasks.arrays import as_array, check_numbers, refuse_several

Config = Mapping[str, Any]
"""What `build` reads: parameter name to value; every name of `Task.defaults` is there."""


OutputKind = Literal["classes", "sigmoids", "values"]
"""classes: logits of one label, along the last axis; sigmoids: a logit for each yes or no; values:
real values. The axes between the batch and these (tokens, pixels) are positions."""


@dataclass(frozen=True)
class Split:
    """Examples and their targets.

    Args:
        inputs: array (examples, ...); NaN is a missing value, for an imputation to fill.
        targets: array (examples, ...); whole numbers are class labels.
    """

    inputs: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True, kw_only=True)
class Data:
    """The three splits. The search sees `train` and `validation`; `test` is for the final front.

    Raises:
        UsageError: what is no array of numbers, an empty split, lengths or shapes that differ,
            infinite inputs, targets that are not finite, or labels of a single class.
    """

    train: Split
    validation: Split
    test: Split

    @property
    def splits(self) -> dict[str, Split]:
        """All three, by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            _check_kind(getattr(self, name), name)
        shape = np.shape(self.train.inputs)[1:]
        target = np.shape(self.train.targets)[1:]
        for name in ("train", "validation", "test"):
            split: Split = getattr(self, name)
            if len(split) == 0:
                raise UsageError(f"the {name} split is empty: it needs at least one example")
            if len(split.inputs) != len(split.targets):
                raise UsageError(
                    f"the {name} split must have as many targets as inputs, "
                    f"got {len(split.targets)} and {len(split.inputs)}"
                )
            if np.shape(split.inputs)[1:] != shape:
                raise UsageError(
                    f"every split's examples must have one shape, got {np.shape(split.inputs)[1:]} "
                    f"in {name} and {shape} in train"
                )
            if np.shape(split.targets)[1:] != target:
                raise UsageError(
                    f"every split's targets must have one shape, got "
                    f"{np.shape(split.targets)[1:]} an example in {name} and {target} in train"
                )
            inputs, targets = np.asarray(split.inputs), np.asarray(split.targets)
            if inputs.dtype.kind == "f" and np.isinf(inputs).any():
                raise UsageError(
                    f"the {name} inputs must be finite or NaN (missing), got "
                    f"{int(np.isinf(inputs).sum())} infinite values: replace them in the task"
                )
            if targets.dtype.kind == "f" and not np.isfinite(targets).all():
                raise UsageError(
                    f"the {name} targets must be finite, got {int((~np.isfinite(targets)).sum())} "
                    "NaN or infinite values: drop their examples in the task"
                )
        labels = np.asarray(self.train.targets)
        if labels.dtype.kind in "iub" and labels.ndim == 1 and len(np.unique(labels)) < 2:
            raise UsageError(
                f"the training labels must have at least two classes, got only {labels[0]}"
            )


def _check_kind(split: Any, name: str) -> None:
    """Refuse a split that is none, or does not hold two arrays of numbers."""
    if not isinstance(split, Split):
        raise UsageError(
            f"the {name} split must be a paretax.Split(inputs, targets), got {type(split).__name__}"
        )
    for part in ("inputs", "targets"):
        given = getattr(split, part)
        refuse_several(given, f"the {name} {part}")
        array = as_array(given, f"{name} {part}")
        if array.ndim == 0:
            raise UsageError(f"the {name} {part} must be an array (examples, ...), got {given!r}")
        check_numbers(array, f"{name} {part}")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a model is judged by.

    Args:
        name: the objective's name in configs and leaderboards, such as "accuracy".
        direction: whether more or less of it is better.
        compute: (outputs, targets) over a whole split, both with the examples first, to a float.
        unit: shown beside the value.
    """

    name: str
    direction: Literal["maximize", "minimize"]
    compute: Callable[[np.ndarray, np.ndarray], float]
    unit: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise UsageError(f"a metric's name must be one word such as 'f1', got {self.name!r}")
        if self.direction not in ("maximize", "minimize"):
            raise UsageError(
                f"the direction of metric {self.name!r} must be 'maximize' or 'minimize', "
                f"got {self.direction!r}"
            )


@runtime_checkable
class Task(Protocol):
    """Model, data and metric. Any object with these members is one.

    Attributes:
        name: short, for titles and file names.
        metric: see `Metric`.
        defaults: the parameters that `build` reads, each with the value that it has where a
            space does not vary it. A space may vary these and the ones that paretax knows.

    A task may have more members, which say how a student's outputs are matched with its teacher's;
    one of them is needed to distil, unless the task is of `classification`:

    - `outputs`: "classes" (logits of one label along the last axis, also for each token or pixel),
      "sigmoids" (a logit for each yes or no) or "values" (real values).
    - `distillation_loss(outputs, teacher_outputs, temperature)`: a scalar, instead of the losses
      that go with these.
    """

    @property
    def name(self) -> str: ...

    @property
    def metric(self) -> Metric: ...

    @property
    def defaults(self) -> Config: ...

    def data(self) -> Data:
        """The arrays. Must return the same ones each time, in any process."""
        ...

    def build(self, config: Config, rngs: nnx.Rngs) -> Any:
        """The model of a candidate.

        Args:
            config: `defaults`, with the candidate's values over them.
            rngs: for a flax.nnx module's initial weights and dropout. A `build` without this
                argument works too; an nnx module's initial weights are then its own affair, and
                do not follow the trial's seed.

        A `build` may also take an argument `inputs`, the shape and dtype of a batch as the model
        sees it: preprocessing changes the number of features.

        Returns:
            A flax.nnx module, a flax.linen module, or a pair of functions
            `(init(key, inputs) -> params, apply(params, inputs) -> outputs)`.
        """
        ...

    def loss(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """The scalar that training minimises, over a batch."""
        ...


def call_build(
    build: Callable[..., Any],
    config: Config,
    rngs: nnx.Rngs,
    inputs: jax.ShapeDtypeStruct | None = None,
) -> Any:
    """`build(config, rngs, inputs)`, without those that it does not take."""
    parameters = inspect.signature(build).parameters
    named = {"inputs": inputs} if "inputs" in parameters else {}
    if "rngs" in parameters:
        return build(config, rngs=rngs, **named)
    if len(parameters) - len(named) == 1:
        return build(config, **named)
    return build(config, rngs, **named)


@dataclass(frozen=True, kw_only=True)
class SupervisedTask:
    """A `Task` from functions; see the protocol for what each of them is."""

    name: str
    metric: Metric
    load: Callable[[], Data]
    model: Callable[..., Any]
    loss_function: Callable[[jax.Array, jax.Array], jax.Array]
    defaults: Config
    outputs: OutputKind | None = None
    distillation_loss: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None

    def data(self) -> Data:
        """The arrays."""
        return self.load()

    def build(
        self, config: Config, rngs: nnx.Rngs, inputs: jax.ShapeDtypeStruct | None = None
    ) -> Any:
        """The model of a candidate."""
        return call_build(self.model, config, rngs, inputs)

    def loss(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """The scalar that training minimises."""
        return self.loss_function(outputs, targets)
