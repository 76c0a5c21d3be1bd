"""The bytes of a deployed candidate, as its weights are stored in a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paretax.evaluators.measurement import Evaluation, Measurement, Provenance
from paretax.evaluators.workbench import Workbench
from paretax.spaces.compression import deployed_shapes
from paretax.spaces.recipe import Recipe
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
        deployed, prepared = self._bench.deployed(candidate), self._bench.prepared(candidate)
        shapes = deployed_shapes(deployed.recipe, deployed.sites, deployed.params, deployed.state)
        size = stored_bytes(deployed.sites, deployed.recipe, shapes)
        plain = Recipe.plain(prepared.sites)
        full = deployed_shapes(plain, prepared.sites, prepared.params, prepared.state)
        dense = stored_bytes(prepared.sites, plain, full)
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
