"""Workers on Ray: lost ones, slow ones, and a cluster that is already up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from paretax.errors import UsageError
from paretax.results import Run
from paretax.search import load_config, parse_config, plan, run_search
from paretax.search.executors.protocol import Call
from paretax.search.executors.ray import RayExecutor, _Start
from paretax.search.worker import WorkerSpec
from paretax.spaces import Candidate

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
    assert "died 4 times" in message


def test_a_task_that_interrupts_costs_its_own_trial_alone(tmp_path: Path) -> None:
    run = search(tmp_path, "interrupts", "raise KeyboardInterrupt")
    check_only_the_bad_one_failed(run, "worker_lost")
    (message,) = (t.failure.message for t in run.trials if t.failure is not None)
    assert message == "its worker died 4 times: its code raised KeyboardInterrupt"


@pytest.fixture
def executor() -> Iterator[RayExecutor]:
    """Two workers of a task that is quick."""
    spec = WorkerSpec(task="breast_cancer", search_path=(), targets=(), wanted=("size",))
    with RayExecutor(spec, workers=2) as found:
        yield found


def calls(first: int, count: int) -> list[Call]:
    candidates = [Candidate({"width": width, "epochs": 1}) for width in range(1, count + 1)]
    return [
        Call(kind="score", trial=first + i, candidate=c, seed=0, signature=str(i))
        for i, c in enumerate(candidates)
    ]


def test_workers_that_are_killed_while_they_start_are_started_again(
    executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, killed = RayExecutor._actor, 0

    def start_and_kill(self: RayExecutor, index: int) -> Any:
        nonlocal killed
        actor = start(self, index)
        if killed < 3:  # of the next ones
            killed += 1
            ray.kill(actor)
        return actor

    monkeypatch.setattr(RayExecutor, "_actor", start_and_kill)
    ray.kill(executor._actors[1])
    found = dict(executor.run(calls(0, 8)))
    assert sorted(found) == list(range(8))
    assert all(evaluation.failure is None for evaluation in found.values())
    while executor._coming:  # the other worker may have done all meanwhile
        executor._came(next(iter(executor._coming)))
    assert killed == 3
    monkeypatch.setattr(
        RayExecutor, "_actor", lambda self, i: (a := start(self, i), ray.kill(a))[0]
    )
    executor._start(_Start(worker=0, since=time.monotonic()))
    for _ in range(4):
        assert executor._came(next(iter(executor._coming))) == []
    with pytest.raises(UsageError, match="the workers do not start"):
        executor._came(next(iter(executor._coming)))


def test_workers_go_on_without_one_that_finds_no_place(
    executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = RayExecutor._actor
    nowhere: Any = ray.remote(num_cpus=10**6)(type("Nowhere", (), {"ready": lambda self: None}))
    monkeypatch.setattr(RayExecutor, "_actor", lambda self, index: nowhere.remote())
    ray.kill(executor._actors[1])
    for first in (0, 8):  # in the next round as well
        found = dict(executor.run(calls(first, 8)))
        assert sorted(found) == list(range(first, first + 8))
        assert all(evaluation.failure is None for evaluation in found.values())
    assert [start.worker for start in executor._coming.values()] == [1]
    monkeypatch.setattr("paretax.search.executors.ray._START_SECONDS", 0.5)
    ray.kill(executor._actors[0])
    with pytest.raises(UsageError, match="no worker is left"):
        dict(executor.run(calls(16, 8)))
    monkeypatch.setattr("paretax.search.executors.ray._START_SECONDS", 300.0)
    monkeypatch.setattr(RayExecutor, "_actor", start)
    lost = list(executor._coming.values())
    executor._coming.clear()
    for one in lost:  # a place is found
        executor._start(one)
    assert {24, 25, 26, 27} <= set(dict(executor.run(calls(24, 4))))


def test_a_worker_that_dies_after_its_last_call_costs_nothing(
    executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RayExecutor._lose
    ended: list[Any] = []

    def noted(self: RayExecutor, batch: Any) -> Any:
        ended.append(run(self, batch))
        return ended[-1]

    monkeypatch.setattr(RayExecutor, "_lose", noted)
    found = {}
    for trial, evaluation in executor.run(calls(0, 1)):
        found[trial] = evaluation
        for actor in executor._actors:
            ray.kill(actor)  # before its stream has ended
    assert set(found) == {0}
    assert found[0].failure is None
    assert ended in ([], [None])  # Ray may have ended the stream before
    assert len(dict(executor.run(calls(1, 4)))) == 4


def test_a_crash_is_named_and_its_place_kept(tmp_path: Path) -> None:
    run = search(tmp_path, "crashes", "import ctypes; ctypes.string_at(0)")
    check_only_the_bad_one_failed(run, "worker_lost")
    (trial,) = (t for t in run.trials if t.failure is not None)
    assert trial.failure is not None
    assert trial.failure.message == (
        "its worker died 4 times: Fatal Python error: Segmentation fault"
    )
    kept = (run.folder / "failures" / f"{trial.number}.txt").read_text()
    assert "crashes.py" in kept


def test_a_worker_that_is_stopped_is_replaced(
    executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It neither ends nor fails, and does not do what Ray tells it."""
    monkeypatch.setattr("paretax.search.executors.ray._SILENT_SECONDS", 6.0)
    stopped = executor._places[1].pid
    found: dict[int, Any] = {}
    for trial, evaluation in executor.run(calls(0, 40)):
        if not found:
            os.kill(stopped, signal.SIGSTOP)
        found[trial] = evaluation
    assert sorted(found) == list(range(40))
    assert all(evaluation.failure is None for evaluation in found.values())
    assert has_ended(stopped)
    while executor._coming:
        executor._came(next(iter(executor._coming)))
    assert executor._places[1].pid != stopped


def has_ended(pid: int) -> bool:
    """Whether a process ends within ten seconds; nobody need have asked for its status."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def searching(folder: Path, *more: str) -> tuple[subprocess.Popen[str], Path]:
    """A search of some seconds in a process of its own, and its journal."""
    config = folder / "config.yaml"
    config.write_text(
        "task: breast_cancer\nobjectives: [accuracy, size]\nbudget: {trials: 300}\nworkers: 2\n"
        "space: {width: {type: int, low: 2, high: 9}, epochs: {type: int, low: 1, high: 9}}\n"
        "final_seeds: 0\nsampler: random\nbatch: 4\n"
    )
    code = "from paretax.cli import main; main()"
    command = [sys.executable, "-c", code, "search", str(config), "--out", str(folder / "run")]
    process = subprocess.Popen(
        [*command, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return process, folder / "run" / "journal.jsonl"


def lines_of(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def assert_gone(processes: Iterable[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(list(processes), timeout=5)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it is gone, or a zombie
        return []


@pytest.mark.parametrize("part", ["raylet/raylet", "gcs_server"])
def test_where_ray_dies_the_search_says_so_and_goes_on_later(tmp_path: Path, part: str) -> None:
    process, journal = searching(tmp_path)
    while lines_of(journal) < 8:
        assert process.poll() is None
        time.sleep(0.1)
    helpers = psutil.Process(process.pid).children(recursive=True)
    (victim,) = (p for p in helpers if any(part in word for word in _words(p)[:1]))
    victim.kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    line = said.strip().splitlines()[-1]
    assert line.startswith("failed: a part of Ray has died: ")
    assert "nothing measured is lost. Go on with: paretax search" in line
    assert "Traceback" not in said
    assert_gone(helpers)
    before = journal.read_bytes()
    again, _ = searching(tmp_path, "--resume")
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert journal.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert all(t.valid for t in Run.open(tmp_path / "run").trials)


@pytest.mark.parametrize("events", [None, 8])
def test_nothing_outlives_a_killed_search(tmp_path: Path, events: int | None) -> None:
    """Not even where it is killed while Ray starts."""
    process, journal = searching(tmp_path)
    helpers: dict[int, psutil.Process] = {}
    while process.poll() is None:
        helpers |= {p.pid: p for p in psutil.Process(process.pid).children(recursive=True)}
        if events is None and any("raylet" in " ".join(_words(p)) for p in helpers.values()):
            time.sleep(1)
            helpers |= {p.pid: p for p in psutil.Process(process.pid).children(recursive=True)}
            break
        if events is not None and lines_of(journal) >= events:
            break
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert len(helpers) > 3
    assert_gone(helpers.values())


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


@pytest.mark.parametrize("task", ["away:task", "breast_cancer"])
def test_a_running_cluster_gets_the_users_module(cluster: str, tmp_path: Path, task: str) -> None:
    config = tmp_path / "config.yaml"
    (tmp_path / "away.py").write_text(TASK.format(driver=0, misbehave="pass"))
    config.write_text(
        f"task: {task}\nobjectives: [accuracy, size]\n"
        "budget: {trials: 2}\nworkers: 2\n"
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


def test_temporary_files_lie_where_ray_can_name_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "übung"))
    spec = WorkerSpec(task="breast_cancer", search_path=(), targets=(), wanted=("size",))
    with (
        pytest.raises(UsageError, match=r"ASCII name, got '.*übung'"),
        RayExecutor(spec, workers=1),
    ):
        pytest.fail("it started")
    assert not ray.is_initialized()


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
