"""Every benchmark runs from end to end, with all its sides."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "script",
    [
        "distillation", "joint", "latency_model", "lottery_ticket", "pruning",
        "quantization", "scaling", "score_speed", "signatures", "systolic",
        pytest.param("throughput", marks=pytest.mark.slow),  # starts two local clusters
    ],
)  # fmt: skip
def test_a_smoke_run(script: str, smoke: Callable[[str], object]) -> None:
    smoke(script)


def test_a_smoke_run_keeps_no_record() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "systolic.py", "--smoke", "--record"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "leave out --smoke" in done.stderr
