"""A driver that is killed loses nothing, and a resumed search ends as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from paretax.errors import UsageError
from paretax.results import Run
from paretax.search import Plan, parse_config, plan, resuming, run_search

CONFIG: dict[str, Any] = {
    "task": "breast_cancer",
    "objectives": ["accuracy", "size"],  # nothing timed, so that two runs are comparable
    "space": {
        "width": {"type": "ordinal", "choices": [4, 8]},
        "learning_rate": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True},
        "epochs": {"type": "int", "low": 2, "high": 5},
        "sparsity": {"type": "float", "low": 0.0, "high": 0.8, "step": 0.2},
        "fine_tuning": 0.0,
    },
    "limits": {"size": 1000},
    "budget": {"trials": 12},
    "sampler": {"name": "nsga2", "options": {"population": 4}},
    "final_seeds": 2,
    "executor": "inline",
}


def outcomes(run: Run) -> list[Any]:
    """Everything about a run's trials but the time that they took."""
    return [
        (
            t.number,
            t.batch,
            t.candidate,
            t.seed,
            [(m.objective, m.value) for m in t.measurements],
            t.failure,
            t.trained,
            t.baseline,
            sorted((r.seed, r.measurement and r.measurement.value) for r in t.repeats),
            None if t.test is None else t.test.value,
        )
        for t in run.trials
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return run_search(plan(parse_config(CONFIG, "config")), folder)


def events(folder: Path) -> list[dict[str, Any]]:
    path = folder / "journal.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def finished(folder: Path) -> dict[int, Any]:
    """What is in the journal of the trials that ended, by number."""
    return {
        e["trial"]: (e["measurements"], e.get("failure"))
        for e in events(folder)
        if e["event"] == "trained" or (e["event"] == "scored" and "failure" in e)
    }


def test_cut_anywhere_a_run_ends_as_if_it_had_not_been(undisturbed: Run, tmp_path: Path) -> None:
    whole = (undisturbed.folder / "journal.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    for keep in (1, 2, 4, 7, len(lines) // 2, len(lines) - 3, len(lines)):
        for torn in (0, 9):  # between two events, and in the middle of one
            head = b"".join(lines[:keep])
            tail = lines[keep][:torn] if keep < len(lines) else b""
            folder = tmp_path / f"{keep}-{torn}"
            folder.mkdir()
            (folder / "journal.jsonl").write_bytes(head + tail)
            before = finished(folder)
            run = run_search(plan(parse_config(CONFIG, "config")), folder, resume=True)
            assert (folder / "journal.jsonl").read_bytes().startswith(head)
            assert outcomes(run) == outcomes(undisturbed)
            after = finished(folder)
            assert {n: after[n] for n in before} == before
            trained = [e["trial"] for e in events(folder) if e["event"] == "trained"]
            assert len(trained) == len(set(trained)), "a finished trial was repeated"
            again = [(e["trial"], e["seed"]) for e in events(folder) if e["event"] == "repeated"]
            assert len(again) == len(set(again)), "a training with a further seed was repeated"


def test_resuming_a_finished_run_changes_nothing(undisturbed: Run) -> None:
    before = (undisturbed.folder / "journal.jsonl").read_bytes()
    run_search(plan(parse_config(CONFIG, "config")), undisturbed.folder, resume=True)
    assert (undisturbed.folder / "journal.jsonl").read_bytes() == before


def driver(config: Path, folder: Path, *more: str) -> subprocess.Popen[bytes]:
    # A shell that starts the tests in the background has them ignore SIGINT, and so would this.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from paretax.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "search", str(config), "--out", str(folder), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for_events(process: subprocess.Popen[bytes], folder: Path, count: int) -> None:
    while len(events(folder)) < count and process.poll() is None:
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_kill_9_at_several_moments(executor: str, undisturbed: Run, tmp_path: Path) -> None:
    """One run, killed again and again, each time a few events further on."""
    settings = {**CONFIG, "executor": executor, "workers": 2}
    config, folder = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    done: dict[int, Any] = {}
    marks = (1, 3, 8, 14, 22) if executor == "inline" else (2, 9, 16)
    for mark in marks:
        resume = ["--resume"] if events(folder) else []
        process = driver(config, folder, *resume)
        wait_for_events(process, folder, mark)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        now = finished(folder)
        assert {n: now[n] for n in done} == done, "a finished trial was lost"
        done = now
    process = driver(config, folder, "--resume")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()
    after = finished(folder)
    assert {n: after[n] for n in done} == done
    assert outcomes(Run.open(folder)) == outcomes(undisturbed)


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(undisturbed: Run, tmp_path: Path) -> None:
    config, folder = tmp_path / "config.yaml", tmp_path / "run"
    settings = {**CONFIG, "executor": "ray", "workers": 2}
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    process = driver(config, folder)
    wait_for_events(process, folder, 7)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=120)
    errors = printed.decode()
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert len(Run.open(folder).trials) < 12 or any(not t.done for t in Run.open(folder).trials)
    again = driver(config, folder, "--resume")
    _, printed = again.communicate(timeout=300)
    assert again.returncode == 0, printed.decode()
    assert outcomes(Run.open(folder)) == outcomes(undisturbed)


def test_a_run_of_an_earlier_version_goes_on_where_its_costs_were_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its profiles had a key that is gone, and lacked others; a modelled cost does not compare."""
    short = {**CONFIG, "objectives": ["accuracy", "latency"], "budget": {"trials": 2}}
    longer = {"budget": {"trials": 3}, "final_seeds": 0}
    dumped = resuming._profiles

    def earlier(made: Plan) -> dict[str, Any]:
        gone = ("checked", "error", "host_overhead", "library_overhead", "efficiency")
        return {
            name: {k: v for k, v in profile.items() if k not in gone} | {"sparsity": {}}
            for name, profile in dumped(made).items()
        }

    for target in ("cpu", "aarch64"):
        config = {**short, "targets": [target]}
        folder = tmp_path / target
        with monkeypatch.context() as then:
            then.setattr(resuming, "_profiles", earlier)
            then.setattr(resuming, "COST_MODEL", None)
            run_search(plan(parse_config(config, "config")), folder)
        more = plan(parse_config({**config, **longer}, "config"))
        if target == "cpu":
            assert len(run_search(more, folder, resume=True).trials) == 3
        else:
            with pytest.raises(UsageError, match=r"costs on aarch64 .* another version of paretax"):
                run_search(more, folder, resume=True)


def test_a_run_is_not_resumed_on_another_processor(
    undisturbed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**CONFIG, "objectives": ["accuracy", "latency"], "budget": {"trials": 2}}
    run_search(plan(parse_config(config, "config")), tmp_path / "run")
    more = plan(parse_config({**config, "budget": {"trials": 4}}, "config"))
    monkeypatch.setattr("paretax.search.resuming.machine", lambda: {"processor": "another"})
    with pytest.raises(UsageError, match=r"processor.*'another'"):
        run_search(more, tmp_path / "run", resume=True)
