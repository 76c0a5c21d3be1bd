"""The task's metric: train, prune and quantise, then score in the deployed arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paretax.evaluators.cache import LeastRecentlyUsed
from paretax.evaluators.measurement import (
    Evaluation,
    Failure,
    Measurement,
    Provenance,
    Reason,
)
from paretax.evaluators.training import DivergedError, Trainer, to_numpy
from paretax.evaluators.workbench import Prepared, Workbench
from paretax.spaces.compression import Recipe, observe, simulate
from paretax.tasks import Arrays, Split

_CALIBRATION = 512  # training examples from which input ranges are taken
_CHUNK = 512  # examples that are scored at a time


class AccuracyEvaluator:
    """Scores a candidate by the task's metric on the validation split.

    Args:
        bench: the task.
    """

    def __init__(self, bench: Workbench) -> None:
        self.provides: tuple[str, ...] = (bench.task.metric.name,)
        self._bench = bench
        self._trainer = Trainer(bench)
        self._programs: LeastRecentlyUsed[Callable[..., Any]] = LeastRecentlyUsed(64)

    def evaluate(self, candidate: Mapping[str, Any], seed: int) -> Evaluation:
        """Train a candidate and score it on the validation split."""
        start = time.perf_counter()
        try:
            params, state = self._trainer.train(candidate, seed)
            arrays = {**params, **state}
            value = self.score(candidate, arrays, self._bench.data.validation)
        except DivergedError as error:
            return Evaluation(failure=Failure(reason=Reason.DIVERGED, message=str(error)))
        return Evaluation(
            measurements=(self._measurement(value, "validation", time.perf_counter() - start),),
            weights=to_numpy(arrays),
        )

    def test(self, candidate: Mapping[str, Any], weights: Mapping[str, Any]) -> Measurement:
        """Score trained weights on the test split; for the final front alone."""
        start = time.perf_counter()
        value = self.score(candidate, weights, self._bench.data.test)
        return self._measurement(value, "test", time.perf_counter() - start)

    def _measurement(self, value: float, split: str, seconds: float) -> Measurement:
        metric = self._bench.task.metric
        return Measurement(
            objective=metric.name,
            value=value,
            unit=metric.unit,
            provenance=Provenance.MEASURED,
            seconds=seconds,
            detail={"split": split},
        )

    def score(
        self, candidate: Mapping[str, Any], weights: Mapping[str, Any], split: Split
    ) -> float:
        """The metric of trained weights on a split, through the candidate's deployed arithmetic.

        Raises:
            DivergedError: an output is not finite.
        """
        prepared = self._bench.prepared(candidate)
        params, state = parts(prepared, weights)
        recipe = Recipe.of(candidate)
        pruned = recipe.pruned(prepared.sites)
        ranges = self.ranges(prepared, recipe, params, state)
        run = self._programs.get(
            (prepared.key, "simulate"),
            lambda: jax.jit(simulate(prepared.model.predict, prepared.sites)),
        )

        def predict(inputs: np.ndarray) -> Any:
            widths = recipe.weight_bits, recipe.activation_bits
            return run(params, state, inputs, pruned, ranges, *widths)

        outputs = in_chunks(predict, split.inputs)
        if not np.isfinite(outputs).all():
            raise DivergedError("the trained model's outputs are not finite")
        return float(self._bench.task.metric.compute(outputs, split.targets))

    def ranges(
        self, prepared: Prepared, recipe: Recipe, params: Arrays, state: Arrays
    ) -> dict[str, jax.Array]:
        """The largest magnitude of each site's inputs over the first 512 training examples."""
        run = self._programs.get(
            (prepared.key, "observe"),
            lambda: jax.jit(observe(prepared.model.predict, prepared.sites)),
        )
        inputs = self._bench.data.train.inputs[:_CALIBRATION]
        ranges: dict[str, jax.Array] = run(params, state, inputs, recipe.pruned(prepared.sites))
        return ranges


def parts(prepared: Prepared, weights: Mapping[str, Any]) -> tuple[Arrays, Arrays]:
    """Parameters and state out of all arrays of a trained model."""
    params = {name: jnp.asarray(weights[name]) for name in prepared.params}
    return params, {name: jnp.asarray(weights[name]) for name in prepared.state}


def in_chunks(predict: Callable[[np.ndarray], Any], inputs: np.ndarray) -> np.ndarray:
    """Outputs of all inputs, a bounded number at a time; the last chunk is filled by repetition."""
    if len(inputs) == 0:
        return np.asarray(predict(np.zeros((1, *inputs.shape[1:]), inputs.dtype)))[:0]
    size = min(_CHUNK, len(inputs))
    found = []
    for start in range(0, len(inputs), size):
        chunk = inputs[start : start + size]
        filled = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), axis=0)])
        found.append(np.asarray(predict(filled))[: len(chunk)])
    return np.concatenate(found)
