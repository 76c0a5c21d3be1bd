"""The grid of a trained model, from training examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from paretax.errors import UsageError
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

        Raises:
            UsageError: inputs of a site that are to be rounded are infinite.
        """
        inputs = inputs[:EXAMPLES]
        largest = self._programs.get((key, "observe"), lambda: jax.jit(observe(predict, sites)))(
            params, state, inputs
        )
        _check_finite(recipe, largest)
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


def _check_finite(recipe: Recipe, largest: Mapping[str, jax.Array]) -> None:
    """Refuse infinite inputs of a site, which no grid holds; NaN shows in the outputs."""
    for name, found in largest.items():
        if recipe.treatments[name].inputs_quantized and np.isinf(found).any():
            raise UsageError(
                f"the inputs of {name} are infinite for some training examples, and no grid of "
                f"whole numbers holds them: leave them as they are (activation_bits@GROUP: 32), or "
                "keep infinities out of the model's layers"
            )
