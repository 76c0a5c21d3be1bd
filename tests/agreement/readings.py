"""The three readings of a model, by programs that its draws share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax import export as jax_export
from tests.agreement.drawing import Drawn
from tests.agreement.reference import Array, Reference

from paretax.evaluators import AccuracyEvaluator, Workbench
from paretax.evaluators.accuracy import parts
from paretax.evaluators.calibrating import Calibrator
from paretax.evaluators.compilation import deployed_program
from paretax.evaluators.training import Trainer
from paretax.evaluators.workbench import Deployed
from paretax.spaces.compression import compress
from paretax.spaces.recipe import masks
from paretax.spaces.storage import layout, pack, unpack
from paretax.tasks import Task

_NUDGES = tuple(itertools.product((1e-6, -1e-6), (None, 0)))
"""Moves, and their seeds. Numbers that differ as those of float32 may must come out alike, or an
example says nothing: all the same way, as equal values round alike, and each its own way."""


@contextmanager
def _compiled_soon() -> Iterator[None]:
    """Programs are compiled with little optimisation: for those whose results are compared alike.

    What trains is one: all readings are of the same trained arrays.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


class Readings:
    """A model as it is trained, scored, exported, and read naively.

    Args:
        task: whose model it is.
    """

    def __init__(self, task: Task) -> None:
        self.bench = Workbench(task)
        self._training = AccuracyEvaluator(self.bench)
        self._untrained = Trainer(self.bench, Calibrator(), "loop")
        self._scoring = AccuracyEvaluator(self.bench)
        self._exported: dict[Any, Callable[..., Any]] = {}
        self._kept: dict[Any, Callable[..., Any]] = {}

    def trained(self, drawn: Drawn) -> dict[str, Array]:
        """Arrays as they are deployed; of most draws the first ones, as compiling training takes.

        Raises:
            UsageError: what is asked for does not go with the model.
        """
        candidate, (number, _, numbers) = drawn.candidate, drawn.place
        seed = 3 + numbers
        self.bench.check_training(candidate)
        with _compiled_soon():
            if "qat" in candidate or number % 5 == 0:
                found: Mapping[str, Any] = self._training.train(candidate, seed)
            else:
                begun = self._untrained.begin(candidate, seed, None)
                found = self._training._deployed(candidate, self._untrained.finish(begun))
        return {name: np.asarray(array) for name, array in found.items()}

    def scored(self, drawn: Drawn, weights: Mapping[str, Array]) -> Array:
        """Outputs for the test split as a search scores them."""
        return self._scoring.outputs(drawn.candidate, weights, self.bench.data.test.inputs)

    def exported(self, drawn: Drawn, weights: Mapping[str, Array]) -> tuple[list[Array], int]:
        """Outputs of the exported program, and the bytes of its arrays.

        In one batch; of a model's first set of techniques, also in two.
        """
        model = self.bench.deployed(drawn.candidate)
        params, state, _ = parts(model, weights)
        steps = self._scoring.grid(model, weights)
        arrays = compress(model.recipe, model.sites, params, state, steps)
        kept = self.kept(model, weights)
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
        call, inputs = self._program(model), self.bench.data.test.inputs
        found = [np.asarray(call(opened, inputs))]
        if drawn.place[1] == 0:
            half = len(inputs) // 2
            halves = [np.asarray(call(opened, part)) for part in (inputs[:half], inputs[half:])]
            found.append(np.concatenate(halves))
        return found, sum(a.nbytes for a in stored.values())

    def _program(self, model: Deployed) -> Callable[..., Any]:
        """The exported program, read back from its bytes."""
        place = model.key, model.recipe.form
        if place not in self._exported:
            (batch,) = jax_export.symbolic_shape("batch")
            inputs = self.bench.data.test.inputs
            shape = jax.ShapeDtypeStruct((batch, *inputs.shape[1:]), inputs.dtype)
            exported = jax_export.export(deployed_program(model))(self.bench.arrays(model), shape)
            self._exported[place] = jax.jit(jax_export.deserialize(exported.serialize()).call)
        return self._exported[place]

    def kept(self, model: Deployed, weights: Mapping[str, Array]) -> dict[str, Array]:
        """Which weights of each site are stored, found in one program."""
        recipe, sites = model.recipe, model.sites
        if not recipe.sparse:
            return {name: np.ones(site.shape, bool) for name, site in sites.items()}
        place = model.key, recipe.scope, tuple(recipe.patterns.items())
        if place not in self._kept:
            self._kept[place] = jax.jit(lambda sizes, counts: masks(recipe, sites, sizes, counts))
        sizes = {name: np.abs(weights[name]) for name in sites}
        with _compiled_soon():
            found = self._kept[place](sizes, recipe.pruned(sites))
        return {name: np.asarray(mask) for name, mask in found.items()}


def naive_outputs(drawn: Drawn, weights: Mapping[str, Array], inputs: Array) -> list[Array]:
    """Outputs in float64: as they are, then with numbers moved as `_NUDGES` say."""
    dtype = drawn.dtypes.partition(" ")[0]
    asked = {name: drawn.asked(name) for name in drawn.weights}
    train = drawn.task.data().train.inputs
    look = Reference(weights=weights, asked=asked, dtype=dtype)
    drawn.outputs(look, _features(drawn, train, train))
    found = []
    for nudge, seed in [(0.0, None), *_NUDGES]:
        ref = Reference(
            weights=weights, asked=asked, dtype=dtype, ranges=look.seen, nudge=nudge, seed=seed
        )
        found.append(drawn.outputs(ref, _features(drawn, train, inputs)))
    return found


def _features(drawn: Drawn, train: Array, inputs: Array) -> Array:
    """What the model sees of the task's inputs."""
    if "normalization" not in drawn.candidate:
        return inputs
    train = train.astype(np.float64)
    return (inputs - train.mean(axis=0)) / train.std(axis=0)
