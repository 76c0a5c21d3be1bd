"""Which evaluators a search needs."""

from __future__ import annotations

import pytest

from paretax.errors import UsageError
from paretax.evaluators import Target, Workbench, cost_evaluators
from paretax.evaluators.measured import MeasuredEvaluator
from paretax.evaluators.size import SizeEvaluator
from paretax.evaluators.targets import TargetsEvaluator


def kinds(bench: Workbench, wanted: list[str], targets: list[Target]) -> list[type]:
    found = cost_evaluators(bench, targets, wanted)
    return [type(evaluator) for evaluator in found]


def test_size_is_always_counted_and_programs_are_run_where_that_is_wanted(bench: Workbench) -> None:
    target = [Target.of("cpu")]
    assert kinds(bench, ["accuracy"], target) == [SizeEvaluator]
    assert kinds(bench, [], target) == [SizeEvaluator]
    assert kinds(bench, ["accuracy", "latency"], target) == [SizeEvaluator, MeasuredEvaluator]
    assert kinds(bench, ["memory"], target * 2) == [
        SizeEvaluator,
        MeasuredEvaluator,
        MeasuredEvaluator,
    ]


def test_targets_that_are_elsewhere_share_an_evaluator(bench: Workbench) -> None:
    targets = [Target.of("aarch64"), Target.of("cpu"), Target.of("cpu", measure=False)]
    expected = [SizeEvaluator, TargetsEvaluator, MeasuredEvaluator]
    assert kinds(bench, ["energy"], targets) == expected


def test_a_target_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown target 'gpu'"):
        Target.of("gpu")
