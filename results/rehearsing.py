"""The way to a bundle, gone once with untrained weights before a search spends its budget."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paretax.errors import UsageError, described
from paretax.evaluators import AccuracyEvaluator, Deployed, Workbench
from paretax.evaluators.accuracy import parts
from paretax.evaluators.cache import LeastRecentlyUsed
from paretax.evaluators.randomness import training_key
from paretax.evaluators.scoring import widened
from paretax.results.exporting import TOLERANCE, exported_program
from paretax.spaces.compression import compress

_BATCHES = (3, 1)  # one of them is odd and has neighbours, the other has none
_LARGEST = 2**30  # bytes of weights; a larger model is exported, and not run
_DONE: LeastRecentlyUsed[Any] = LeastRecentlyUsed(64)


def rehearse(bench: Workbench, candidate: Mapping[str, Any], platforms: Iterable[str]) -> None:
    """Build, export and run the deployed form of a candidate, with its initial weights.

    What cannot be deployed shows in seconds so, and not when the best of a search is exported. It
    is run at two batch sizes: a program is deployed for any batch, and an example's outputs must
    not depend on the others beside it.

    Args:
        bench: the task.
        candidate: best a dense one, whose outputs no grid rounds.
        platforms: of the compilers of all targets.

    Raises:
        UsageError: the model cannot be exported for a platform and any batch size, its outputs
            depend on the batch, or the exported program's are others than those that are scored.
    """
    names = tuple(dict.fromkeys(platforms))
    prepared = bench.prepared(candidate)
    key = (id(bench.task), json.dumps(dict(candidate)), prepared.features.shape(1), names)

    def go() -> Any:
        _rehearse(bench, candidate, names)
        return bench.task  # which so lives as long as its identity is kept

    _DONE.get(key, go)


def _rehearse(bench: Workbench, candidate: Mapping[str, Any], platforms: Iterable[str]) -> None:
    model = bench.deployed(candidate)
    where = f"the model of task {bench.task.name!r}"
    for platform in platforms:
        try:
            program, _ = exported_program(model, bench, platform)
        except Exception as error:
            raise UsageError(
                f"{where} cannot be exported for {platform} and any batch size, and so could not "
                f"be deployed: {described(error)}. What it does must not depend on the number of "
                "examples (x.shape[0]) by an `if`, an `int()` or a loop of Python"
            ) from error
    if sum(s.size * s.dtype.itemsize for s in model.params.values()) > _LARGEST:
        return
    weights = _initial(bench, candidate, model)
    evaluator = AccuracyEvaluator(bench)
    grid = evaluator.grid(model, weights)
    params, state, _ = parts(model, weights)
    arrays = compress(model.recipe, model.sites, params, state, grid)
    run = jax.jit(program.call)
    validation = bench.data.validation.inputs
    found = {}
    for count in _BATCHES:
        inputs = validation[np.arange(count) % len(validation)]
        scored = widened(evaluator.outputs(candidate, weights, inputs))
        exported = widened(np.asarray(run(arrays, inputs)))
        if not _alike(scored, exported):
            raise UsageError(
                f"{where} gives other outputs once it is exported, at a batch of {count} by up to "
                f"{_distance(scored, exported):.3g}: this is a fault of paretax; please report it "
                "with the model"
            )
        found[count] = scored
    many, one = (found[count] for count in _BATCHES)
    if not _alike(many[:1], one):
        raise UsageError(
            f"{where} gives an example other outputs when others stand beside it in the batch: "
            f"{_distance(many[:1], one):.3g} apart between batches of {_BATCHES[0]} and "
            f"{_BATCHES[1]}, so no score would hold for a deployed batch. In inference it must "
            "treat each example alone (no batch statistics, no capacity shared by a batch)"
        )


def _initial(bench: Workbench, candidate: Mapping[str, Any], model: Deployed) -> dict[str, Any]:
    """Untrained arrays of a deployed model; of channels that are removed, the last ones are."""
    prepared = bench.prepared(candidate)
    params, state = jax.jit(prepared.init)(training_key(0), prepared.numbers)
    pipeline = prepared.features.pipeline
    fitted = {} if pipeline is None else pipeline.arrays
    made = {**params, **state, **{n: jnp.asarray(a) for n, a in fitted.items()}}
    shapes = {**model.params, **model.state}
    return {n: made[n][tuple(slice(length) for length in s.shape)] for n, s in shapes.items()}


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays of outputs are the same but for the rounding of sums."""
    sizes = np.abs(one[np.isfinite(one)])
    room = TOLERANCE * float(sizes.max() if sizes.size else 0.0)
    return bool(np.isclose(one, other, rtol=0.0, atol=room, equal_nan=True).all())


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):  # infinities of both
        return float(np.nanmax(np.abs(one.astype(np.float64) - other.astype(np.float64))))
