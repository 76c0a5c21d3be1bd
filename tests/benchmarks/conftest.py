"""The benchmarks' own modules, which are no package."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MISSING = 3  # the exit status of a script whose peer is not installed


@pytest.fixture(scope="session")
def readme() -> ModuleType:
    """What writes the README's table."""
    spec = importlib.util.spec_from_file_location("readme", ROOT / "benchmarks" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["readme"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def told(readme: ModuleType) -> dict[str, set[str]]:
    """The figures that the README's row of each script names."""
    rows: list[Any] = readme.ROWS
    texts = {row.script: row.compared + row.found for row in rows}
    parse = string.Formatter().parse
    return {name: {field for _, field, _, _ in parse(t) if field} for name, t in texts.items()}


@pytest.fixture
def smoke(told: dict[str, set[str]], tmp_path: Path) -> Callable[[str], dict[str, float]]:
    """Runs a benchmark in seconds: it ends well, and writes what the README and a record take."""

    def run(script: str) -> dict[str, float]:
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
        figures: dict[str, float] = json.loads(file.read_text("utf-8"))
        assert all(math.isfinite(value) for value in figures.values())
        assert told[script] <= set(figures)
        record = ROOT / "benchmarks" / "results" / f"{script}.json"
        if record.exists():
            assert set(json.loads(record.read_text("utf-8"))["figures"]) == set(figures)
        return figures

    return run
