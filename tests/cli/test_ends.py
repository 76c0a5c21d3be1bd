"""How a command ends that the system lets down: a closed pipe, a full disk, a folder of others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from paretax.results import Run

CONFIG: dict[str, Any] = {
    "task": "breast_cancer",
    "objectives": ["accuracy", "size"],
    "space": {
        "width": 4,
        "depth": 1,
        "learning_rate": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True},
        "epochs": 2,
    },
    "budget": {"trials": 6},
    "sampler": "random",
    "batch": 2,
    "final_seeds": 0,
    "executor": "inline",
}
CODE = "from paretax.cli import program; program()"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", CODE, *map(str, arguments)]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


def test_whoever_reads_may_have_enough() -> None:
    with subprocess.Popen(
        command("profiles", "list"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 1


def test_what_cannot_be_written_is_said() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("profiles", "list"), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "failed: no space left on device\n")


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/run", "/sys/run"])
def test_a_run_needs_a_folder_of_ones_own(config: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / place
    done = subprocess.run(
        command("search", config, "--out", out), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: the run '{out}' cannot be written (")


def test_a_task_that_takes_the_output_away_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "taker.py").write_text(
        "import sys\nimport paretax\n"
        "from paretax.tasks.breast_cancer import _build, _load\n"
        "def build(config, rngs, inputs):\n"
        "    if sys.stdout is not None:\n"
        "        sys.stdout.close()\n"
        "        sys.stdout = None\n"
        "    return _build({'depth': 1, **config}, rngs, inputs)\n"
        "task = paretax.classification('taker', load=_load, build=build, defaults={'width': 4})\n"
    )
    config = tmp_path / "config.yaml"
    space = {"width": {"type": "ordinal", "choices": [2, 4]}, "epochs": 1}
    config.write_text(yaml.safe_dump(CONFIG | {"task": "taker:task", "space": space}))
    done = subprocess.run(
        command("search", config, "--out", tmp_path / "run"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert all(t.valid for t in Run.open(tmp_path / "run").trials)


def test_a_search_on_a_full_disk_loses_nothing(config: Path, tmp_path: Path) -> None:
    """The system lets no file grow beyond some size: the journal ends within a line."""
    whole = tmp_path / "whole"
    subprocess.run(command("search", config, "--out", whole), check=True, capture_output=True)
    content = (whole / "journal.jsonl").read_bytes()
    lines = content.splitlines(keepends=True)
    room = sum(map(len, lines[: len(lines) // 2])) + 40

    cut = tmp_path / "cut"
    limited = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room})); {CODE}"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, "search", str(config), "--out", str(cut)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("failed: file too large; nothing measured is lost. Go on with: paretax")
    again = subprocess.run(
        command("search", config, "--out", cut, "--resume"), capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    one, other = Run.open(whole), Run.open(cut)
    numbers = [t.number for t in one.front("cpu")]
    assert [t.number for t in other.front("cpu")] == numbers
    for number in numbers:
        assert other.trial(number).candidate == one.trial(number).candidate
        assert json.dumps([m.value for m in other.trial(number).measurements]) == json.dumps(
            [m.value for m in one.trial(number).measurements]
        )
