"""Every benchmark runs from end to end, with all its sides."""

from __future__ import annotations

import json
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
        "quantization", "scaling", "score_speed", "signatures", "silicon", "systolic",
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


def test_a_device_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "here.csv"
    script = [sys.executable, str(ROOT / "benchmarks" / "devices.py"), "--out", str(out)]
    few = ["--networks", "resnet18", "--batches", "1"]
    subprocess.run([*script, *few], check=True, capture_output=True)
    names, *rows = [line.split(",") for line in out.read_text("utf-8").splitlines()]
    found = [dict(zip(names, row, strict=True)) for row in rows]
    assert [row["dtype"] for row in found] == ["bfloat16", "float32"]
    assert all(float(row["call_us"]) > 0 and float(row["queued_us"]) > 0 for row in found)
    kept = (ROOT / "benchmarks" / "measured" / "h200.csv").read_text("utf-8")
    assert kept.splitlines()[0].split(",") == names


def test_networks_are_of_the_size_that_is_published() -> None:
    """Millions of weights as timm and the papers state them; GPT-2 without its tied last layer."""
    code = (
        "import json; from architectures import NETWORKS, size; "
        "print(json.dumps({name: size(name) for name in NETWORKS}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "benchmarks", check=True, capture_output=True
    )
    found = {name: round(size / 1e6, 1) for name, size in json.loads(done.stdout).items()}
    assert found["resnet18"] == 11.7
    assert found["resnet50"] == 25.6
    assert found["regnetx_016"] == 9.2
    assert found["mobilenetv2_100"] == 3.5
    assert found["mobilenetv3_large_100"] == 5.5
    assert found["efficientnet_b0"] == 5.3
    assert found["convnext_tiny"] == 28.6
    assert found["vit_small_patch16_224"] == 22.1
    assert found["vit_base_patch16_224"] == 86.6
    assert found["mixer_b16_224"] == 59.9
