"""The grid of a trained model, from training examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from paretax.evaluators.cache import LeastRecentlyUsed
from paretax.evaluators.compiling import compile_fast
from paretax.spaces.compression import (
    Grid,
    grid,
    observe,
    observe_histograms,
    ranges_from,
    widths_of,
)
from paretax.spaces.recipe import Recipe
from paretax.spaces.sites import Arrays, Predict, Site

EXAMPLES = 512
"""Training examples that are looked at."""


class Calibrator:
    """Finds grids, by programs that it keeps."""

    def __init__(self) -> None:
        self._programs: LeastRecentlyUsed[Callable[..., Any]] = LeastRecentlyUsed(64)

    def grid(
        self,
        key: str,
        predict: Predict,
        sites: Mapping[str, Site],
        recipe: Recipe,
        params: Arrays,
        state: Arrays,
        inputs: np.ndarray,
        learned: Arrays,
    ) -> Grid:
        """The steps of all sites.

        Args:
            key: of the model; equal keys, equal programs.
            predict: the model in inference mode.
            sites: of the model.
            recipe: what is done to them.
            params: its weights, pruned.
            state: its state.
            inputs: training examples, of which the first 512 are looked at.
            learned: steps that training found.
        """
        inputs = inputs[:EXAMPLES]
        largest = self._programs.get((key, "observe"), lambda: jax.jit(observe(predict, sites)))(
            params, state, inputs
        )
        histograms: Mapping[str, jax.Array] = {}
        if recipe.calibration != "absmax":
            histograms = self._programs.get(
                (key, "histograms"), lambda: jax.jit(observe_histograms(predict, sites))
            )(params, state, inputs, largest)
        ranges = ranges_from(recipe, sites, largest, histograms)
        make = self._programs.get(
            (key, recipe.structure, bool(learned)),
            lambda: compile_fast(lambda *given: grid(recipe, sites, *given)),
        )
        return make(params, ranges, widths_of(recipe), learned)  # type: ignore[no-any-return]
