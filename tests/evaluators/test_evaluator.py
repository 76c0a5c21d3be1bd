"""Which evaluators a search needs."""

from __future__ import annotations

import pytest

from paretax.errors import UsageError
from paretax.evaluators import Workbench, cost_evaluators
from paretax.evaluators.cpu import CpuEvaluator
from paretax.evaluators.size import SizeEvaluator


def kinds(bench: Workbench, wanted: list[str], targets: list[tuple[str, int]]) -> list[type]:
    found = cost_evaluators(bench, targets, wanted)
    return [type(evaluator) for evaluator in found]


def test_size_is_always_counted_and_programs_are_run_where_that_is_wanted(bench: Workbench) -> None:
    target = [("cpu", 1)]
    assert kinds(bench, ["accuracy"], target) == [SizeEvaluator]
    assert kinds(bench, [], target) == [SizeEvaluator]
    assert kinds(bench, ["accuracy", "latency"], target) == [SizeEvaluator, CpuEvaluator]
    assert kinds(bench, ["memory"], target * 2) == [SizeEvaluator, CpuEvaluator, CpuEvaluator]


def test_a_target_that_does_not_exist_is_refused(bench: Workbench) -> None:
    with pytest.raises(UsageError, match="unknown target 'gpu'"):
        cost_evaluators(bench, [("gpu", 1)], ["latency"])
