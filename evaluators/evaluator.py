"""What scores a candidate, and which ones a search needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from paretax.evaluators.accuracy import AccuracyEvaluator
from paretax.evaluators.cpu import CpuEvaluator
from paretax.evaluators.measurement import Evaluation, Measurement
from paretax.evaluators.size import SizeEvaluator
from paretax.evaluators.workbench import Workbench
from paretax.hardware_profiles import load_profile


class Evaluator(Protocol):
    """Scores candidates of one task.

    Attributes:
        provides: the objectives that it measures.
    """

    @property
    def provides(self) -> tuple[str, ...]: ...

    def evaluate(self, candidate: Mapping[str, Any], seed: int) -> Evaluation:
        """Measure a candidate, or say why not."""
        ...


def cost_evaluators(
    bench: Workbench,
    targets: Sequence[tuple[str, int]],
    wanted: Collection[str],
    known: Iterable[Measurement] = (),
) -> list[Evaluator]:
    """The evaluators that need no training, as far as their objectives are wanted.

    Args:
        bench: the task.
        targets: names of profiles, each with a batch size.
        wanted: names of objectives; size is always counted.
        known: measurements of earlier runs.
    """
    known = list(known)
    found: list[Evaluator] = [SizeEvaluator(bench)]
    if set(wanted) & set(CpuEvaluator.provides):
        found += [CpuEvaluator(bench, load_profile(name), batch, known) for name, batch in targets]
    return found


__all__ = ["AccuracyEvaluator", "Evaluator", "cost_evaluators"]
