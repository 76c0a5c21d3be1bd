"""No code runs because a run or a bundle says so: each command in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paretax.results import Journal, Run, read_events
from paretax.results.manifest import checksum

TASK = """
import pathlib
import paretax
from paretax.tasks.breast_cancer import task as good

pathlib.Path(__file__).with_name("imported").touch()
task = paretax.classification(
    "mine", load=good.load, build=good.model, defaults={"width": 4, "depth": 1}
)
"""


def paretax(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command, where the current folder is no place of modules."""
    code = "from paretax.cli import main; main()"
    command = [sys.executable, "-P", "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task, a run of it and a bundle."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "mine.py").write_text(TASK)
    config: dict[str, Any] = {
        "task": "mine:task",
        "objectives": ["accuracy", "size"],
        "space": {"width": {"type": "ordinal", "choices": [4, 8]}, "depth": 1, "epochs": 3},
        "budget": {"trials": 2},
        "executor": "inline",
        "final_seeds": 0,
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    searched = paretax("search", folder / "config.yaml", "--out", folder / "run", cwd=elsewhere)
    assert searched.returncode == 0, searched.stderr
    exported = paretax(
        *("export", folder / "run", "-o", folder / "bundle", "--task-path", folder), cwd=elsewhere
    )
    assert exported.returncode == 0, exported.stderr
    (folder / "imported").unlink()
    return folder


@pytest.mark.parametrize("start", [".", "elsewhere"])
def test_a_run_does_not_say_which_code_runs(made: Path, tmp_path: Path, start: str) -> None:
    for arguments in (
        ("export", made / "run", "-o", tmp_path / "b"),
        ("reproduce", made / "run", 0),
    ):
        refused = paretax(*arguments, cwd=made / start)
        assert refused.returncode == 2
        assert "--task-path FOLDER" in refused.stderr
    assert not (made / "imported").exists()
    assert not (tmp_path / "b").exists()


def test_a_named_task_is_reproduced(made: Path) -> None:
    again = paretax(
        "reproduce", made / "run", 0, "--task", "mine:task", "--task-path", made, cwd=made
    )
    assert again.returncode == 0, again.stderr
    assert "reproduced exactly" in again.stdout
    (made / "imported").unlink()


@pytest.mark.parametrize("start", [".", "bundle"])
def test_without_the_task_verify_says_what_it_left_out(made: Path, start: str) -> None:
    found = paretax("verify", made / "bundle", cwd=made / start)
    assert found.returncode == 0, found.stderr
    assert "4 files match their checksums" in found.stdout
    assert "the score was not checked: the task 'mine:task'" in found.stdout
    assert not (made / "imported").exists()
    whole = paretax("verify", made / "bundle", "--task-path", made, cwd=made / start)
    assert whole.returncode == 0, whole.stderr
    assert "accuracy" in whole.stdout
    (made / "imported").unlink()


@pytest.mark.parametrize("name", ["code:interact", "evil:task"])
def test_a_bundle_names_no_code(made: Path, tmp_path: Path, name: str) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for file in (made / "bundle").iterdir():
        (bundle / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["task"] = name
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    found = paretax("verify", bundle, cwd=bundle)
    assert found.returncode == 0, found.stderr
    assert f"not checked: the task '{name}'" in found.stdout
    (bundle / "evil.py").write_text(TASK)
    manifest["checksums"]["evil.py"] = checksum(bundle / "evil.py")
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    unknown = paretax("verify", bundle, cwd=bundle)
    assert unknown.returncode == 1
    assert "the file 'evil.py' is none that a bundle has" in unknown.stderr
    inside = paretax("verify", bundle, "--task-path", bundle, cwd=bundle)
    assert inside.returncode == 2
    assert "no code is run from within" in inside.stderr
    assert not (bundle / "imported").exists()


def test_a_journal_names_no_code(made: Path, tmp_path: Path) -> None:
    header, *events = read_events(made / "run")
    run = tmp_path / "run"
    run.mkdir()
    (run / "evil.py").write_text(TASK)
    header["config"]["task"] = "evil:task"
    header["search_path"] = [str(run)]
    (run / "draft").mkdir()
    with Journal(run) as journal:
        for event in (header, *events):
            journal.append(event)
    assert Run.open(run).task_name == "evil:task"
    refused = paretax("export", run, "-o", tmp_path / "bundle", cwd=run)
    assert refused.returncode == 2
    assert "the task 'evil:task' is code of a user's own" in refused.stderr
    assert not (run / "imported").exists()
