"""The bytes of a deployed candidate, as its weights are stored in a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paretax.evaluators.measurement import Evaluation, Measurement, Provenance
from paretax.evaluators.workbench import Workbench
from paretax.spaces.compression import Recipe, deployed_shapes
from paretax.spaces.storage import stored_bytes


class SizeEvaluator:
    """Counts bytes from shapes, bit-widths and sparsity, without training.

    Args:
        bench: the task.
    """

    provides = ("size",)

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    def evaluate(self, candidate: Mapping[str, Any], seed: int) -> Evaluation:
        """Size in bytes (modelled), with the float32 model's of the same shape beside it."""
        size, dense = (self._count(candidate, r) for r in (Recipe.of(candidate), Recipe()))
        return Evaluation(
            measurements=(
                Measurement(
                    objective="size",
                    value=size,
                    unit="bytes",
                    provenance=Provenance.MODELLED,
                    detail={"dense_float32": dense},
                ),
            )
        )

    def _count(self, candidate: Mapping[str, Any], recipe: Recipe) -> int:
        prepared = self._bench.prepared(candidate)
        shapes = deployed_shapes(recipe, prepared.sites, prepared.params, prepared.state)
        return stored_bytes(prepared.sites, recipe, shapes)
