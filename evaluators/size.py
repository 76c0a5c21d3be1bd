"""The bytes of a deployed candidate, as its weights are stored in a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paretax.evaluators.measurement import Evaluation, Measurement, Provenance
from paretax.evaluators.workbench import Workbench
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
        """Size in bytes (modelled), with the dense model's of the same shape beside it."""
        return Evaluation(measurements=(count_bytes(self._bench, candidate),))


def count_bytes(
    bench: Workbench, candidate: Mapping[str, Any], pruned: Mapping[str, int] | None = None
) -> Measurement:
    """The size of a candidate.

    Args:
        bench: the task.
        candidate: what is counted.
        pruned: how many weights each site lost; None: as is known before training. With the
            global scope that is an estimate, at equal shares.
    """
    deployed, prepared = bench.deployed(candidate), bench.prepared(candidate)
    shapes = bench.arrays(deployed)
    detail: dict[str, Any] = {"dense": bench.dense_bytes(prepared)}
    if pruned is not None:
        detail["pruned"] = "globally"
    return Measurement(
        objective="size",
        value=stored_bytes(deployed.sites, deployed.recipe, shapes, pruned),
        unit="bytes",
        provenance=Provenance.MODELLED,
        detail=detail,
    )
