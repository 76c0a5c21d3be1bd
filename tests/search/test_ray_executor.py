"""Workers on Ray: lost ones, slow ones, and a cluster that is already up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paretax.errors import UsageError
from paretax.results import Run
from paretax.search import load_config, parse_config, plan, run_search

pytestmark = pytest.mark.slow

TASK = """
import os, time
import paretax
from paretax.tasks.breast_cancer import _build, _load
def build(config, rngs, inputs):
    if os.getpid() != {driver} and config["width"] == 8:
        {misbehave}
    return _build({{**config, "depth": 1}}, rngs, inputs)
task = paretax.classification("bad", load=_load, build=build, defaults={{"width": 4}})
"""


def search(folder: Path, name: str, misbehave: str, **changes: Any) -> Run:
    (folder / f"{name}.py").write_text(TASK.format(driver=os.getpid(), misbehave=misbehave))
    config = {
        "task": f"{name}:task",
        "objectives": ["accuracy", "size"],
        "space": {"width": {"type": "ordinal", "choices": [2, 4, 8]}, "epochs": 2},
        "budget": {"trials": 3},
        "sampler": "grid",
        "workers": 2,
        **changes,
    }
    return run_search(plan(parse_config(config, "config"), [folder]), folder / "run")


def check_only_the_bad_one_failed(run: Run, reason: str) -> None:
    assert len(run.trials) == 3
    for trial in run.trials:
        if trial.candidate["width"] == 8:
            assert trial.failure is not None
            assert trial.failure.reason == reason
        else:
            assert trial.valid


def test_a_worker_that_dies_costs_its_own_trial_alone(tmp_path: Path) -> None:
    run = search(tmp_path, "dies", "os._exit(1)")
    check_only_the_bad_one_failed(run, "worker_lost")
    (message,) = (t.failure.message for t in run.trials if t.failure is not None)
    assert "died 2 times" in message


def test_a_trial_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    run = search(tmp_path, "sleeps", "time.sleep(600)", trial_seconds=40)
    check_only_the_bad_one_failed(run, "timeout")


@pytest.fixture
def cluster() -> Iterator[str]:
    ray = str(Path(sys.executable).with_name("ray"))
    start = [ray, "start", "--head", "--num-cpus=2", "--include-dashboard=false"]
    start.append('--resources={"accelerator_type:BOARD": 1}')
    subprocess.run([*start, "--disable-usage-stats"], check=True, capture_output=True)
    yield "auto"
    subprocess.run([ray, "stop", "--force"], check=True, capture_output=True)


def test_a_running_cluster_gets_the_users_module(cluster: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    (tmp_path / "away.py").write_text(TASK.format(driver=0, misbehave="pass"))
    config.write_text(
        "task: away:task\nobjectives: [accuracy, size]\nbudget: {trials: 2}\nworkers: 2\n"
        "space: {width: {type: ordinal, choices: [2, 4]}, epochs: 2}\n"
    )
    code = "from paretax.cli import main; main()"
    command = [sys.executable, "-c", code, "search", config, "--out", tmp_path / "run"]
    done = subprocess.run(
        [*map(str, command), "--address", cluster], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(t.valid for t in Run.open(tmp_path / "run").trials)


AWAY = """
import os, ray
import paretax
from paretax.tasks.breast_cancer import _build, _load
def build(config, rngs, inputs):
    given = ray.get_runtime_context().get_assigned_resources() if ray.is_initialized() else {{}}
    if "{resource}" in given:
        if config["width"] == 8:
            os._exit(1)
        open("{folder}/beside-the-device", "a").write("x")
    return _build({{**config, "depth": 1}}, rngs, inputs)
task = paretax.classification("board", load=_load, build=build, defaults={{"width": 4}})
"""


def on_a_board(folder: Path) -> Path:
    """A config that measures the CPU of a cluster's board; width 8 kills its worker."""
    made = AWAY.format(folder=folder, resource="accelerator_type:BOARD")
    (folder / "board_task.py").write_text(made)
    config = folder / "config.yaml"
    config.write_text(
        "task: board_task:task\nobjectives: [size, latency]\nworkers: 1\nsampler: grid\n"
        "budget: {trials: 3}\ntargets: [{name: cpu, accelerator_type: BOARD}]\n"
        "space: {width: {type: ordinal, choices: [2, 4, 8]}, epochs: 2}\n"
    )
    return config


def test_a_device_of_the_cluster_is_measured_by_a_worker_beside_it(
    cluster: str, tmp_path: Path
) -> None:
    config = on_a_board(tmp_path)
    code = "from paretax.cli import main; main()"
    command = [sys.executable, "-c", code, "search", config, "--out", tmp_path / "run"]
    done = subprocess.run(
        [*map(str, command), "--address", cluster], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    run = Run.open(tmp_path / "run")
    assert (tmp_path / "beside-the-device").exists()
    check_only_the_bad_one_failed(run, "worker_lost")
    for trial in run.trials:
        if trial.valid:
            (latency,) = (m for m in trial.measurements if m.objective == "latency")
            assert latency.provenance == "measured"
            assert latency.target == "cpu"
            assert latency.detail["device"] == "cpu"


def test_a_device_that_this_machine_has_not_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="on 'BOARD', and this machine has none"):
        run_search(plan(load_config(on_a_board(tmp_path)), [tmp_path]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_cluster_that_is_not_there_leaves_nothing_behind(tmp_path: Path) -> None:
    config = {
        "task": "breast_cancer",
        "objectives": ["accuracy"],
        "space": {"epochs": {"type": "int", "low": 1, "high": 2}},
        "budget": {"trials": 1},
    }
    with pytest.raises(UsageError, match="no Ray cluster"):
        run_search(plan(parse_config(config, "config")), tmp_path / "run", address="127.0.0.1:1")
    assert not (tmp_path / "run").exists()
