"""A candidate's preprocessing: chosen, checked, fitted by scikit-learn, compiled to JAX.

The order is: missing values, outliers, transformation, normalisation, feature selection, principal
components, and last the columns that mark missing values.

- Everything after it needs complete numbers, so missing values come first, in their own units.
- Caps before the transformation and the normalisation, whose statistics outliers would distort.
- Normalisation after the transformation, so that its result is what the model or the selection and
  the components see, whatever came before; products of features are scaled like features.
- Selection before the components: a component mixes features, and would hide what each is worth.
- The marks of missing values are 0 and 1 already, and a component of them would mean nothing; so
  no step touches, drops or counts them.

Filled values and caps are rounded to float32, in the program and in the reference: up to the
transformation the table is one that float32 holds exactly. A chain of float64 tables gives the same
to float32's precision, but where rounding makes two values equal their ranks (`transformation:
quantile`) become one.

Tables (examples, features) may have any of these. Images (examples, height, width, channels) and
series (examples, steps, channels) have those that treat each channel alike: the statistics are over
examples and positions. The last axis is the channels.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paretax.errors import UsageError
from paretax.spaces.dimensions import choose
from paretax.spaces.preprocessing.arithmetic import pair, rounded
from paretax.spaces.preprocessing.technique import Apply, Sizes, Technique, Values
from paretax.spaces.preprocessing.techniques import SETTINGS, TECHNIQUES

_LARGEST = np.finfo(np.float32).max
_Reference = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _chosen(config: Mapping[str, Any]) -> list[tuple[Technique, Values]]:
    """The techniques that a candidate asks for, in order, and the settings that each reads."""
    values = choose(SETTINGS, config)

    def asked(technique: Technique) -> bool:
        value = values[technique.place]
        on = value == technique.name if technique.name else bool(value)
        return on and (not technique.needs or values[technique.needs] != "none")

    return [
        (t, {name: values[name] for name in (t.place, *(s.name for s in t.settings))})
        for t in TECHNIQUES
        if asked(t)
    ]


def is_active(config: Mapping[str, Any]) -> bool:
    """Whether a candidate asks for any preprocessing.

    Args:
        config: parameter names to values; others than these settings are ignored.
    """
    return bool(_chosen(config))


def key(config: Mapping[str, Any]) -> str:
    """The settings that have an effect as canonical JSON; equal keys mean equal pipelines.

    Args:
        config: parameter names to values; others than these settings are ignored.

    Returns:
        The JSON, or "" where nothing is asked for.
    """
    counted = {name: value for _, values in _chosen(config) for name, value in values.items()}
    return json.dumps(counted, sort_keys=True, separators=(",", ":")) if counted else ""


def check(
    config: Mapping[str, Any],
    example_shape: Sequence[int],
    has_missing: bool,
    examples: int,
    targets: np.ndarray,
) -> None:
    """Refuse what cannot be fitted, before anything is.

    Args:
        config: parameter names to values; others than these settings are ignored.
        example_shape: of one example.
        has_missing: whether any split's inputs have NaN.
        examples: in the training split.
        targets: of the training split, (examples, ...).

    Raises:
        UsageError: a value that a setting does not allow, missing values that nothing fills, a
            technique for tables on images or series, or more neighbours, components or features
            than there are.
    """
    values = choose(SETTINGS, config)
    for setting in SETTINGS:
        if not setting.allows(values[setting.name]):
            raise UsageError(
                f"{setting.name} must be {setting.rule}, got {values[setting.name]!r}: change it"
            )
    chosen = _chosen(config)
    if has_missing and values["imputation"] == "none":
        names = [t.name for t in TECHNIQUES if t.place == "imputation"]
        raise UsageError(
            "inputs with missing values (NaN) need an imputation, got imputation 'none': "
            f"set it to one of {', '.join(names)}, or fill them in the task"
        )
    if chosen and not len(example_shape):
        raise UsageError(
            "preprocessing needs examples with an axis of features, got examples of shape (): give "
            "the inputs the shape (examples, 1)"
        )
    features = example_shape[-1] if len(example_shape) else 1
    for technique, own in chosen:
        if technique.tabular and len(example_shape) != 1:
            raise UsageError(
                f"{technique.place} {own[technique.place]!r} is for tables (examples, features), "
                f"got examples of shape {tuple(example_shape)}: {technique.tabular}; leave it out"
            )
        technique.check(own, Sizes(features=features, examples=examples), np.asarray(targets))
        features = technique.features(own, features)


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Fitted preprocessing, of which `apply` is the compiled form.

    Args:
        arrays: what it learned, "preprocessing/<place>/<name>" to a float32 or int32 array; all
            finite, and not to be written to.
        steps: what is done, in words and in order.
        program: (place, function) in order. Two pipelines with equal programs and arrays of equal
            shapes and types are one compiled program on different arrays.
        references: what scikit-learn's objects compute, in the same order.
    """

    arrays: Mapping[str, np.ndarray]
    steps: tuple[str, ...]
    program: tuple[tuple[str, Apply], ...]
    references: tuple[_Reference, ...]

    def apply(self, arrays: Mapping[str, jax.Array], inputs: jax.Array) -> jax.Array:
        """The preprocessed inputs: pure, to be traced, for any batch size.

        Args:
            arrays: `arrays`, or those of a pipeline with the same program; others are ignored.
            inputs: (batch, ...) of the shape that it was fitted to; NaN is missing.

        Returns:
            float32: (batch, new features) for a table, else the shape of `inputs`.
        """
        inputs = jnp.asarray(inputs, jnp.float32)
        rows = inputs if inputs.ndim == 2 else inputs.reshape(-1, inputs.shape[-1])
        table = pair(rows)
        for place, function in self.program:
            prefix = _name(place, "")
            own = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
            table = function(own, table, rows)
        outputs = rounded(table)
        return outputs if inputs.ndim == 2 else outputs.reshape(inputs.shape)

    def reference(self, inputs: np.ndarray) -> np.ndarray:
        """What scikit-learn's fitted objects give, in float64; the test of `apply`.

        Args:
            inputs: as of `apply`.
        """
        rows = _rows(np.asarray(inputs))
        table = rows
        for reference in self.references:
            table = reference(table.copy(), rows)
        return table if np.ndim(inputs) == 2 else table.reshape(np.shape(inputs))


def fit(config: Mapping[str, Any], inputs: np.ndarray, targets: np.ndarray) -> Pipeline:
    """Fit a candidate's preprocessing on the training split.

    Args:
        config: parameter names to values; others than these settings are ignored.
        inputs: (examples, ...) of the training split, NaN where missing. Whole numbers are taken as
            float32, and numbers of more digits are rounded to it, as the program's inputs are.
        targets: (examples, ...) of the training split.

    Raises:
        UsageError: what `check` refuses for these inputs, a feature without any value, inputs that
            are no numbers or beyond float32, or what scikit-learn cannot fit.

    Example:
        >>> inputs, targets = np.array([[1.0], [3.0]]), np.array([0, 1])
        >>> pipeline = fit({"normalization": "standard"}, inputs, targets)
        >>> pipeline.steps
        ('normalise: standard, mean 0 and deviation 1',)
        >>> pipeline.apply(pipeline.arrays, np.array([[3.0], [5.0]])).tolist()
        [[1.0], [3.0]]
    """
    inputs, targets = np.asarray(inputs), np.asarray(targets)
    if len(inputs) == 0 or len(inputs) != len(targets):
        raise UsageError(
            "preprocessing needs at least one example, and a target for each, got "
            f"{len(inputs)} and {len(targets)}"
        )
    _check_numbers(inputs)
    missing = inputs.dtype.kind == "f" and bool(np.isnan(inputs).any())
    check(config, inputs.shape[1:], missing, len(inputs), targets)
    rows = _rows(inputs)
    empty = np.flatnonzero(np.isnan(rows).all(axis=0))
    if len(empty):
        raise UsageError(
            "every feature needs a value in the training split, got only NaN in feature "
            f"{', '.join(map(str, empty))}: drop it in the task"
        )
    arrays: dict[str, np.ndarray] = {}
    steps, program, references = [], [], []
    table = rows
    for technique, values in _chosen(config):
        source = rows if technique.needs else table
        with warnings.catch_warnings():  # of constant features, which all techniques take
            warnings.simplefilter("ignore")
            try:
                fitted = technique.fit(values, source.copy(), targets)
                table = fitted.reference(table.copy(), rows)
            except (ValueError, RuntimeError) as error:
                raise _unfit(technique, values, error) from error
        if not all(_in_float32(a) for a in (table, *fitted.arrays.values())):
            raise _unfit(technique, values, "it gives numbers beyond float32")
        arrays |= {_name(technique.place, name): a for name, a in fitted.arrays.items()}
        steps.append(fitted.words)
        program.append((technique.place, fitted.apply))
        references.append(fitted.reference)
    return Pipeline(
        arrays=arrays, steps=tuple(steps), program=tuple(program), references=tuple(references)
    )


def _name(place: str, array: str) -> str:
    return f"preprocessing/{place}/{array}"


def _rows(inputs: np.ndarray) -> np.ndarray:
    """Inputs as float32 hold them, (rows, features) in float64."""
    return inputs.astype(np.float32).astype(np.float64).reshape(-1, inputs.shape[-1])


def _in_float32(array: np.ndarray) -> bool:
    """Whether no number is NaN, infinite or too large."""
    return bool((np.abs(array) <= _LARGEST).all())


def _unfit(technique: Technique, values: Values, reason: object) -> UsageError:
    return UsageError(
        f"{technique.place} {values[technique.place]!r} does not fit these inputs ({reason}): "
        "leave it out"
    )


def _check_numbers(inputs: np.ndarray) -> None:
    if inputs.dtype.kind not in "fiub":
        raise UsageError(
            f"preprocessing needs numbers, got inputs of type {inputs.dtype}: encode them in the "
            "task"
        )
    largest = np.nanmax(np.abs(inputs), initial=0)
    if largest > _LARGEST:
        raise UsageError(
            f"preprocessing needs inputs that float32 holds, up to {_LARGEST:g}, got {largest:g}: "
            "rescale them in the task"
        )
