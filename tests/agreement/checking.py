"""What a candidate scores, what is exported, and a naive reading of it in float64: all the same.

Models and techniques are drawn at random. Each draw is equal in all three, within the tolerances
below, or is refused by name. `PARETAX_DRAWS=1700 pytest tests/agreement -n auto` draws so many of
each system, more than CI does.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import export as jax_export
from tests.agreement.drawing import Drawn, draw
from tests.agreement.reference import Array, Reference

from paretax.errors import UsageError
from paretax.evaluators import AccuracyEvaluator, Workbench
from paretax.evaluators.accuracy import final_masks, parts
from paretax.evaluators.calibrating import Calibrator
from paretax.evaluators.compilation import deployed_program
from paretax.evaluators.size import count_bytes
from paretax.evaluators.training import Trainer
from paretax.evaluators.workbench import Deployed
from paretax.spaces.compression import compress
from paretax.spaces.storage import layout, pack, unpack

BLOCK = 10
"""Draws in one test."""

FIRSTS = range(0, int(os.environ.get("PARETAX_DRAWS", "60")), BLOCK)
"""The first draw of each test."""

_EXACT = 2e-5
"""Of the largest output: sums in another order."""

_LOW = {"bfloat16": 0.05, "bfloat16 weights": 0.05, "float16": 0.01}
"""Of the largest output: a few roundings of the model's own arithmetic."""

_NUDGES = (0.0, 3e-6, -3e-6)
"""Numbers that differ by these shares must come out alike, or an example says nothing."""


def naive_inputs(drawn: Drawn, inputs: Array) -> Array:
    """What the model sees of the task's inputs."""
    if "normalization" not in drawn.candidate:
        return inputs
    train = drawn.task.data().train.inputs.astype(np.float64)
    return (inputs - train.mean(axis=0)) / train.std(axis=0)


def naive_outputs(drawn: Drawn, weights: Mapping[str, Array], inputs: Array) -> list[Array]:
    """Outputs in float64, once for each nudge."""
    dtype = drawn.dtypes.partition(" ")[0]
    asked = {name: drawn.asked(name) for name in drawn.weights}
    look = Reference(weights=weights, asked=asked, dtype=dtype)
    drawn.outputs(look, naive_inputs(drawn, drawn.task.data().train.inputs))
    found = []
    for nudge in _NUDGES:
        ref = Reference(weights=weights, asked=asked, dtype=dtype, ranges=look.seen, nudge=nudge)
        found.append(drawn.outputs(ref, naive_inputs(drawn, inputs)))
    return found


def kept_weights(model: Deployed, params: Mapping[str, Any]) -> dict[str, Array]:
    """Which weights of each site are stored; in one program, which compiles faster than many."""
    masks = jax.jit(lambda params: final_masks(model, params))(params)
    return {name: np.asarray(mask) for name, mask in masks.items()}


def exported_outputs(
    bench: Workbench, evaluator: AccuracyEvaluator, drawn: Drawn, weights: Mapping[str, Array]
) -> tuple[list[Array], int]:
    """Outputs of the exported program, in one batch and in two; the bytes of its arrays."""
    model = bench.deployed(drawn.candidate)
    params, state, _ = parts(model, weights)
    arrays = compress(model.recipe, model.sites, params, state, evaluator.grid(model, weights))
    kept = kept_weights(model, params)
    stored = pack(arrays, kept, model.sites, model.recipe)
    layouts = {
        n: layout(s, model.recipe.treatments[n], int((~kept[n]).sum()))
        for n, s in model.sites.items()
    }
    limits = {
        n: float(np.asarray(arrays[f"{n}.input"]).flat[1])
        for n in layouts
        if f"{n}.input" in arrays
    }
    opened = unpack(stored, layouts, limits)
    for name, array in arrays.items():
        np.testing.assert_array_equal(np.asarray(opened[name]), np.asarray(array))
    inputs = bench.data.test.inputs
    (batch,) = jax_export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, *inputs.shape[1:]), inputs.dtype)
    exported = jax_export.export(deployed_program(model))(bench.arrays(model), shape)
    call = jax.jit(jax_export.deserialize(exported.serialize()).call)
    whole = np.asarray(call(opened, inputs))
    half = len(inputs) // 2
    halves = [np.asarray(call(opened, part)) for part in (inputs[:half], inputs[half:])]
    return [whole, np.concatenate(halves)], sum(a.nbytes for a in stored.values())


def check_pruning(drawn: Drawn, sites: Mapping[str, Any], weights: Mapping[str, Array]) -> None:
    """As many zeros as were asked for, in the right places."""
    chosen = drawn.candidate
    if "pruning_pattern" in chosen:
        n, m = map(int, chosen["pruning_pattern"].split(":"))
        for name, site in sites.items():
            groups = np.moveaxis(weights[name], site.inner_axis, -1).reshape(-1, m)
            assert ((groups == 0).sum(axis=1) >= m - n).all(), name
    elif chosen.get("sparsity", 0) and chosen["pruning_scope"] == "layer":
        for name, site in sites.items():
            least = min(site.size - 1, round(site.size * chosen["sparsity"]))
            assert (weights[name] == 0).sum() >= least, name


def trained_or_not(
    bench: Workbench, evaluator: AccuracyEvaluator, drawn: Drawn
) -> Mapping[str, Any]:
    """Weights as they are deployed; of most draws the first ones, as compiling a training takes."""
    candidate = drawn.candidate
    if "qat" in candidate or drawn.number % 5 == 0:
        return evaluator.train(candidate, 3)
    trainer = Trainer(bench, Calibrator(), "loop")
    return evaluator._deployed(candidate, trainer.finish(trainer.begin(candidate, 3, None)))


def agree(drawn: Drawn) -> str:
    """Hold one draw's three readings against each other.

    Returns:
        What came of it: "equal", "equal where float64 tells", or "refused: WHY".
    """
    bench = Workbench(drawn.task)
    evaluator = AccuracyEvaluator(bench)
    try:
        bench.check_training(drawn.candidate)
        trained = trained_or_not(bench, evaluator, drawn)
    except UsageError as error:
        return f"refused: {error}"
    weights = {name: np.asarray(array) for name, array in trained.items()}
    model = bench.deployed(drawn.candidate)
    assert set(drawn.weights) <= set(model.sites), "a weight that no technique reaches"
    check_pruning(drawn, model.sites, weights)
    inputs = bench.data.test.inputs
    scored = evaluator.outputs(drawn.candidate, weights, inputs)
    exported, size = exported_outputs(bench, evaluator, drawn, weights)
    size_said = count_bytes(bench, drawn.candidate, _gone(drawn, model, weights)).value
    assert size == size_said, f"{size} bytes stored, {size_said} counted"
    assert np.isfinite(scored).all(), "scored outputs are not finite"
    tallest = float(np.abs(scored).max()) + 1e-9
    # Of two batch sizes the compiler makes two programs, whose sums may round otherwise.
    rooms = _EXACT, _LOW.get(drawn.dtypes, _EXACT)
    for found, room in zip(exported, rooms, strict=True):
        worst = np.abs(found - scored).max() / tallest
        assert worst <= room, f"exported differs from scored by {worst:.2g}"
    plain, *nudged = naive_outputs(drawn, weights, inputs)
    assert all(np.isfinite(found).all() for found in (plain, *nudged)), "the naive reading"
    allowed = _LOW.get(drawn.dtypes, _EXACT) * tallest
    steady = np.ones(len(inputs), bool)
    for other in nudged:
        steady &= np.abs(other - plain).max(axis=1) <= allowed / 2
    if drawn.dtypes != "float32" and model.recipe.rounds:
        return "equal"  # a value on an edge is the rule there: the naive reading cannot tell
    if steady.any():
        worst = np.abs(scored - plain)[steady].max() / tallest
        assert worst <= allowed / tallest, f"scored differs from naive by {worst:.2g}"
    return "equal" if steady.mean() > 0.5 else "equal where float64 tells"


def _gone(drawn: Drawn, model: Any, weights: Mapping[str, Array]) -> dict[str, int] | None:
    if drawn.candidate.get("pruning_scope") != "global":
        return None
    kept = kept_weights(model, parts(model, weights)[0])
    return {n: int((~mask).sum()) for n, mask in kept.items()}


def check(system: str, first: int) -> None:
    """Hold the draws of one test; of too many that are refused, the test says nothing."""
    found: Counter[str] = Counter()
    for number in range(first, first + BLOCK):
        drawn = draw(system, number)
        try:
            found[agree(drawn).partition(":")[0]] += 1
        except Exception as error:
            raise AssertionError(f"{drawn.words}: {type(error).__name__}: {error}") from error
    jax.clear_caches()
    assert found["equal"] + found["equal where float64 tells"] >= BLOCK // 3, found
