"""What scores a candidate, and which ones a search needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from paretax.evaluators.accuracy import AccuracyEvaluator
from paretax.evaluators.measured import MEASURED, MeasuredEvaluator
from paretax.evaluators.measurement import Evaluation, Measurement
from paretax.evaluators.size import SizeEvaluator
from paretax.evaluators.target import Target
from paretax.evaluators.targets import TargetsEvaluator
from paretax.evaluators.workbench import Workbench


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
    targets: Sequence[Target],
    wanted: Collection[str],
    known: Iterable[Measurement] = (),
) -> list[Evaluator]:
    """The evaluators that need no training, as far as their objectives are wanted.

    Args:
        bench: the task.
        targets: the devices.
        wanted: names of objectives; size is always counted.
        known: measurements of earlier runs.

    Raises:
        UsageError: a device that is to be measured is not there.
    """
    known = list(known)
    found: list[Evaluator] = [SizeEvaluator(bench)]
    if not set(wanted) & set(MEASURED):
        return found
    elsewhere = [t for t in targets if not t.measure]
    if elsewhere:
        found.append(TargetsEvaluator(bench, elsewhere, wanted))
    found += [MeasuredEvaluator(bench, t, wanted, known) for t in targets if t.measure]
    return found


__all__ = ["AccuracyEvaluator", "Evaluator", "cost_evaluators"]
