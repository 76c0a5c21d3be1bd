"""Every benchmark runs from end to end, with all its sides."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MISSING = 3  # the exit status of a script whose peer is not installed


@pytest.mark.parametrize(
    "script",
    [
        "distillation", "faults", "joint", "latency_model", "lottery_ticket", "pruning",
        "quantization", "scaling", "score_speed", "signatures", "systolic",
        pytest.param("throughput", marks=pytest.mark.slow),  # starts two local clusters
    ],
)  # fmt: skip
def test_a_smoke_run(script: str, told: dict[str, set[str]], tmp_path: Path) -> None:
    """It ends well, and writes the figures that the README and a record are made of."""
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / f"{script}.py", "--smoke", "--json", file],
        env=os.environ | {"PARETAX_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode == MISSING:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout
    assert "smoke run in" in done.stdout
    figures = json.loads(file.read_text("utf-8"))
    assert all(math.isfinite(value) for value in figures.values())
    assert told[script] <= set(figures)
    record = ROOT / "benchmarks" / "results" / f"{script}.json"
    if record.exists():
        assert set(json.loads(record.read_text("utf-8"))["figures"]) == set(figures)


def test_a_smoke_run_keeps_no_record() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "systolic.py", "--smoke", "--record"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "leave out --smoke" in done.stderr
