"""Tasks that are given as objects: in this process, and in a script whose workers are on Ray."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from paretax.errors import UsageError
from paretax.results import Run, export_bundle, verify_bundle
from paretax.search import SearchConfig, parse_config, plan, run_search
from paretax.search.executors.actor import packed
from paretax.search.worker import WorkerSpec
from paretax.tasks import SupervisedTask, accuracy, classification, load_task, split
from paretax.tasks.digits import task as digits
from paretax.tasks.loading import _held, goes_by_value, name_of

SEARCH: dict[str, Any] = {
    "space": {"width": {"type": "ordinal", "choices": [4, 8]}, "epochs": 3, "batch_size": 32},
    "objectives": ["accuracy", "size"],
    "budget": {"trials": 2},
    "sampler": "grid",
    "executor": "inline",
}


class Net(nnx.Module):
    """One hidden layer."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.hidden, self.out = nnx.Linear(4, width, rngs=rngs), nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(nnx.relu(self.hidden(x)))


def make(name: str = "made", seed: int = 0) -> SupervisedTask:
    """A task that is in no module."""
    x = np.random.default_rng(seed).normal(size=(200, 4)).astype(np.float32)
    return classification(
        name,
        load=lambda: split(x, (x[:, 0] > 0).astype(np.int32)),
        build=lambda config, rngs: Net(config["width"], rngs),
        defaults={"width": 4},
    )


def test_a_task_as_an_object_from_search_to_bundle(tmp_path: Path) -> None:
    task = make()
    run = run_search(SearchConfig(task=task, **SEARCH), str(tmp_path / "run"))
    assert run.task_name == "object:made"
    assert Run.open(tmp_path / "run").workbench().task is task
    trial = run.front("cpu")[0]
    assert trial.test is not None
    export_bundle(run, trial, "cpu", tmp_path / "bundle")
    assert verify_bundle(tmp_path / "bundle").value == trial.test.value
    again = run_search(
        plan(parse_config({"task": task, **SEARCH}, "c")), tmp_path / "run", resume=True
    )
    assert [t.measurements for t in again.trials] == [t.measurements for t in run.trials]


def test_another_process_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_search(plan(SearchConfig(task=make("lost"), **SEARCH)), tmp_path / "run")
    monkeypatch.delitem(_held, "object:lost")
    with pytest.raises(UsageError, match="'lost' was given as an object by the script that searc"):
        export_bundle(run, run.trials[0], "cpu", tmp_path / "bundle")
    with pytest.raises(UsageError, match="'__main__:no_such' is one of the script or notebook"):
        load_task("__main__:no_such")


def test_names_of_objects() -> None:
    assert name_of(digits) == "paretax.tasks.digits:task"
    assert name_of("digits") == "digits"
    assert name_of(make("a")) == "object:a"
    assert [goes_by_value(t) for t in ("digits", "a:b", "__main__:b", make())] == [
        False,
        False,
        True,
        True,
    ]


def test_a_class_or_function_that_makes_a_task(tmp_path: Path) -> None:
    run = run_search(plan(SearchConfig(task=lambda: make("b"), **SEARCH)), tmp_path / "run")
    assert all(t.valid for t in run.trials)


MEMBERS = dict.fromkeys(("name", "metric", "defaults", "data", "build", "loss"), 1)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (SimpleNamespace(name="x"), "the task is no task: it lacks metric, defaults"),
        (SimpleNamespace(**MEMBERS), r"must be one paretax.Metric, got int"),
    ],
)
def test_objects_that_are_no_tasks(task: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(SearchConfig(task=task, **SEARCH))


@pytest.mark.parametrize("member", ["metrics", "optimizer", "train_step"])
def test_members_that_a_search_does_not_read_are_refused(member: str) -> None:
    class Own:
        name, metric, defaults = "own", accuracy, {"width": 4}
        data, build, loss = make().data, make().build, make().loss

    setattr(Own, member, lambda self: None)
    with pytest.raises(UsageError, match=f"has a member '{member}', which a search does not read"):
        load_task(Own())
    Own.metric = [accuracy]  # type: ignore[assignment]
    with pytest.raises(UsageError, match=r"must be one paretax.Metric, got list"):
        load_task(Own())


def test_what_cannot_be_sent_is_refused() -> None:
    lock = threading.Lock()
    task = classification("held", load=lambda: lock, build=Net, defaults={})  # type: ignore[arg-type, return-value]
    spec = WorkerSpec(task="object:held", value=task, search_path=(), targets=(), wanted=())
    with pytest.raises(UsageError, match=r"'object:held' cannot be sent to the workers .*lock"):
        packed(spec)
    assert packed(WorkerSpec(task="digits", search_path=(), targets=(), wanted=())) is None


SCRIPT = """
import json, sys
from pathlib import Path
import flax.linen as linen, jax, jax.numpy as jnp, numpy as np, ray
from flax import nnx
import paretax
sys.path.insert(0, "beside")
import shared_layers

X = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
FACTOR = 1.5

class Net(nnx.Module):
    def __init__(self, width, rngs):
        self.hidden, self.out = nnx.Linear(4, width, rngs=rngs), nnx.Linear(width, 2, rngs=rngs)
    def __call__(self, x):
        return self.out(shared_layers.activation(FACTOR * self.hidden(x)))

class LinenNet(linen.Module):
    width: int
    @linen.compact
    def __call__(self, x):
        return linen.Dense(2)(linen.relu(linen.Dense(self.width)(x)))

def made(model):
    def build(config, rngs):
        return model(config["width"], rngs)
    return paretax.classification("made", load=lambda: paretax.split(X, Y), build=build,
                                  defaults={"width": 4})

class Own(paretax.Task):
    name, metric, defaults = "own", paretax.accuracy, {"width": 4}
    outputs = "classes"
    def data(self): return paretax.split(X, Y)
    def build(self, config, rngs): return LinenNet(config["width"])
    def loss(self, outputs, targets): return paretax.cross_entropy(outputs, targets)

task = made(Net)
CONFIG = json.loads(sys.argv[1])

def scores(task, name, executor):
    config = paretax.SearchConfig(task=task, executor=executor, workers=1, **CONFIG)
    run = paretax.run_search(paretax.plan(config, [Path(".")]), Path(name))
    if name == "bundled":
        paretax.export_bundle(run, run.front("cpu")[0], "cpu", Path("bundle"))
        paretax.verify_bundle(Path("bundle"), [Path(".")])
    assert all(t.valid for t in run.trials), [t.failure for t in run.trials]
    return [m.value for t in run.trials for m in t.measurements if m.target is None]

here = scores(task, "inline", "inline"), scores(Own(), "own-inline", "inline")
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
there = scores("__main__:task", "bundled", "ray"), scores(Own(), "own", "ray")
closed = scores(made(Net), "object", "ray")
print(json.dumps([here, there, closed]))
class Broken(Own):
    def __reduce__(self): return eval, ("1 / 0",)
try:
    scores(Broken(), "broken", "ray")
except paretax.UsageError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.slow
def test_a_script_searches_on_ray_with_what_it_defines(tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "shared_layers.py").write_text(
        "from flax.nnx import relu as activation\n"
    )
    (tmp_path / "script.py").write_text(SCRIPT)
    config = {k: v for k, v in SEARCH.items() if k != "executor"}
    command = [sys.executable, "script.py", json.dumps(config)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = done.stdout.strip().splitlines()[-2:]
    here, there, closed = json.loads(first)
    assert there == here  # the same trials, bit for bit
    assert closed == here[0]
    assert json.loads(second) == "the workers do not start: ZeroDivisionError: division by zero"
    export = ["from paretax.cli import main; main()", "export", "object", "--out", "elsewhere"]
    again = [sys.executable, "-c", *export]
    refused = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "was given as an object by the script" in refused.stderr
