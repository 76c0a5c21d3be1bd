"""The README says what the records of the benchmarks say, and those say where they are from."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


def test_the_readme_says_what_the_records_say(readme: ModuleType) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert text == readme.written(text, readme.read()), "run: python benchmarks/readme.py"


def test_every_benchmark_is_in_the_table(readme: ModuleType) -> None:
    helpers = {
        "architectures",
        "devices",
        "devices_page",
        "networks",
        "readme",
        "record",
        "reporting",
    }
    files = {file.stem for file in (ROOT / "benchmarks").glob("*.py")}
    scripts = {name for name in files - helpers if not name.startswith("faults_")}
    assert scripts == {row.script for row in readme.ROWS}
    assert {file.stem for file in RESULTS} <= scripts


def test_what_has_no_record_is_not_in_the_table(readme: ModuleType) -> None:
    shown = readme.table({})
    assert "`scaling.py` |" not in shown
    assert "Not measured with this version: `throughput.py`, `scaling.py`" in shown


def test_no_figure_is_written_by_hand(readme: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a record holds stands in the table."""
    row = readme.Row(script="scaling", compared="cost", found="{x:.2f} times in {y:,}")
    monkeypatch.setattr(readme, "ROWS", (row,))
    record = {
        "figures": {"x": 1.234, "y": 12345},
        "machine": {"processor": "A Processor", "cores": 4},
        "command": "python x.py --quick",
    }
    shown = readme.table({"scaling": record})
    assert "| `scaling.py` | cost | 1.23 times in 12,345 |" in shown
    assert "A Processor, 4 cores, quick runs: scaling." in shown


def test_a_readme_without_a_table_is_refused(readme: ModuleType) -> None:
    with pytest.raises(SystemExit, match="around its table"):
        readme.written("# nothing", {})


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_a_record_can_be_made_again(file: Path, told: dict[str, set[str]]) -> None:
    text = file.read_text("utf-8")
    record: dict[str, Any] = json.loads(text)
    assert set(record) == {
        "command", "commit", "date", "seconds", "machine", "versions", "figures",
    }  # fmt: skip
    assert re.fullmatch(rf"python benchmarks/{file.stem}\.py( --quick)?", record["command"])
    assert re.fullmatch(r"[0-9a-f]{40}", record["commit"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert set(record["machine"]) == {"processor", "cores"}
    assert {"python", "jax", "flax"} <= set(record["versions"])
    assert all(isinstance(value, int | float) for value in record["figures"].values())
    assert "/home" not in text
    assert "/tmp" not in text
    assert told[file.stem] <= set(record["figures"])


def test_the_page_of_devices_says_what_the_record_and_the_profiles_say() -> None:
    page = str(ROOT / "benchmarks" / "devices_page.py")
    done = subprocess.run(
        [sys.executable, page, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
