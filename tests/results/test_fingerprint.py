"""What a run's figures are of: its data and code, told from others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.results import Run, export_bundle, read_events, render, reproduce
from paretax.results.fingerprint import data_fingerprint, differences
from paretax.search import Plan, parse_config, plan, run_search
from paretax.tasks import Data, Split

TASK = '''"""A task with helpers."""
import os

import numpy as np

import paretax
from {package}.nets import build


def load():
    rng = np.random.default_rng(int(os.environ.get("OWN_DATA", "0")))
    labels = np.arange(90) % 3
    inputs = (labels[:, None] + 0.3 * rng.normal(size=(90, 4))).astype(np.float32)
    return paretax.split(inputs, labels.astype(np.int32), seed=0)


task = paretax.classification("own", load=load, build=build, defaults={{"width": 4}})
'''

NETS = '''"""Its network."""
from flax import nnx

from .layers import Hidden


class Net(nnx.Module):
    def __init__(self, width, rngs):
        self.hidden = Hidden(width, rngs)
        self.out = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(self.hidden(x))


def build(config, rngs):
    return Net(config["width"], rngs)  # the model
'''

LAYERS = '''"""Its layer."""
from flax import nnx


class Hidden(nnx.Module):
    def __init__(self, width, rngs):
        self.dense = nnx.Linear(4, width, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.dense(x))
'''

Planner = Callable[..., Plan]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's package of three modules, and a module that nothing imports."""
    # Files that are edited within a second to the same length would be taken from their bytecode.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = f"own_{tmp_path.name.replace('-', '_')}"
    folder = tmp_path / name
    folder.mkdir()
    files = {"tasks": TASK.format(package=name), "nets": NETS, "layers": LAYERS, "other": "X = 1\n"}
    for file, text in {**files, "__init__": ""}.items():
        (folder / f"{file}.py").write_text(text)
    path = list(sys.path)
    yield folder
    sys.path[:] = path
    _forget(name)


def _forget(name: str) -> None:
    """As a new process: modules are read again."""
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        del sys.modules[module]


@pytest.fixture
def planned(package: Path) -> Planner:
    """Plans a search as a new process would."""

    def make(**changes: Any) -> Plan:
        _forget(package.name)
        config = {
            "task": f"{package.name}.tasks:task",
            "objectives": ["accuracy", "size"],
            "space": {
                "epochs": 2,
                "batch_size": 16,
                "learning_rate": {"type": "float", "low": 1e-3, "high": 1e-2},
            },
            "budget": {"trials": 2},
            "sampler": "random",
            "executor": "inline",
        }
        return plan(parse_config({**config, **changes}, "test"), [package.parent])

    return make


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_the_files_that_a_task_is_made_of(package: Path, planned: Planner) -> None:
    code = planned().fingerprint["code"]
    inside = ("__init__", "layers", "nets", "tasks")
    assert list(code) == [f"{package.name}/{name}.py" for name in inside]


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("layers", "nnx.relu(self.dense(x))", "nnx.gelu(self.dense(x))"),
        ("nets", "nnx.Linear(width, 3", "nnx.Linear(width, 4"),
        ("tasks", "0.3 * rng", "0.4 * rng"),
        ("tasks", '"width": 4', '"width": 5'),
    ],
)
def test_a_change_in_any_of_them_is_named(
    package: Path, planned: Planner, file: str, before: str, after: str
) -> None:
    then = planned().fingerprint
    edit(package / f"{file}.py", before, after)
    changed = differences(then, planned().fingerprint)
    assert f"the code in {package.name}/{file}.py" in changed
    assert ("train inputs" in changed) == ("rng" in before)
    assert ("the task's defaults" in changed) == ("width" in before and file == "tasks")


def test_comments_and_other_files_change_nothing(package: Path, planned: Planner) -> None:
    then = planned().fingerprint
    edit(package / "nets.py", "  # the model", "")
    edit(package / "layers.py", "class Hidden", "\n# A layer.\n\nclass Hidden")
    edit(package / "other.py", "1", "2")
    assert differences(then, planned().fingerprint) == []


SCRIPT = """
import sys
import numpy as np
import paretax
from paretax.results.fingerprint import code_fingerprint

SCALE = {scale}


def loss_of(x):  {comment}
    return x * SCALE


def load():
    x = np.zeros((30, 2), np.float32)
    return paretax.split(loss_of(x), np.arange(30) % 2, seed=0)


def build(config):
    return (lambda key, x: {{}}), (lambda params, x: x)


def unrelated():
    return {unrelated}


task = paretax.classification("script", load=load, build=build, defaults={{}})
print(code_fingerprint(task, "__main__:task", [])["the task's functions"])
"""


def test_of_a_script_only_what_the_task_uses_counts(tmp_path: Path) -> None:
    def of(**changes: str) -> str:
        script = tmp_path / "script.py"
        chosen = {"scale": "2", "comment": "", "unrelated": "1", **changes}
        script.write_text(SCRIPT.format(**chosen))
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    plain = of()
    assert len(plain) == 64
    assert of(comment="# x", unrelated="2") == plain
    assert of(scale="3") != plain


def _data(**changes: Any) -> Data:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        name: Split(rng.normal(size=(6, 3)).astype(np.float32), np.arange(6) % 2)
        for name in ("train", "validation", "test")
    }
    return Data(**{**arrays, **changes})


def test_any_change_of_data_is_named() -> None:
    then = {"data": data_fingerprint(_data())}
    assert differences(then, {"data": data_fingerprint(_data())}) == []
    same = _data().test
    others = [
        ("test targets", Split(same.inputs, 1 - same.targets)),
        ("test targets", Split(same.inputs, same.targets.astype(np.int8))),
        ("test inputs", Split(same.inputs.astype(np.float64), same.targets)),
        ("test inputs", Split(same.inputs[::-1], same.targets)),
        ("test inputs", Split(same.inputs.reshape(6, 3)[:, [0, 2, 1]], same.targets)),
    ]
    for words, split in others:
        assert differences(then, {"data": data_fingerprint(_data(test=split))}) == [words]


def test_another_data_set_does_not_resume(
    tmp_path: Path, planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    run_search(planned(), folder)
    before = (folder / "journal.jsonl").read_bytes()
    monkeypatch.setenv("OWN_DATA", "1")
    more = {"budget": {"trials": 3}}
    for changes in ({}, more):  # be it finished or not
        with pytest.raises(UsageError, match=r"train inputs.*test inputs.*--force-data"):
            run_search(planned(**changes), folder, resume=True)
    run = Run.open(folder)
    with pytest.raises(UsageError, match="--force-data"):
        reproduce(run, run.trial(0))
    with pytest.raises(UsageError, match="--force-data"):
        export_bundle(run, run.front("cpu")[0], "cpu", tmp_path / "bundle")
    assert (folder / "journal.jsonl").read_bytes() == before

    forced = run_search(planned(**more), folder, resume=True, force_data=True)
    assert [(first, words[0]) for first, words in forced.forced] == [(2, "train inputs")]
    assert "From trial 2 on, data or code were others" in render(forced, None, "table")
    assert reproduce(forced, forced.trial(2)).equal
    with pytest.raises(UsageError, match="--force-data"):  # its data was the first one
        reproduce(forced, forced.trial(0))
    run_search(planned(budget={"trials": 4}), folder, resume=True)  # nothing to insist on any more
    monkeypatch.setenv("OWN_DATA", "0")
    assert reproduce(forced, forced.trial(0)).equal


def test_a_journal_without_a_fingerprint_resumes_and_gets_one(
    tmp_path: Path, planned: Planner
) -> None:
    folder = tmp_path / "run"
    run_search(planned(), folder)
    header, *rest = read_events(folder)
    del header["fingerprint"]
    older = [{**header, "format": 1}, *rest]
    (folder / "journal.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in older))
    assert Run.open(folder).fingerprint() is None
    assert reproduce(Run.open(folder), Run.open(folder).trial(0)).equal
    run = run_search(planned(budget={"trials": 3}), folder, resume=True)
    assert run.fingerprint() == planned().fingerprint
    assert run.forced == ()


def test_a_value_that_python_takes_for_the_same_is_another_config(
    tmp_path: Path, planned: Planner
) -> None:
    space = {"epochs": 2, "batch_size": 16, "width": 4, "weight_decay": 1}
    run_search(planned(space=space, budget={"trials": 1}), tmp_path / "run")
    other = planned(space={**space, "weight_decay": 1.0}, budget={"trials": 1})
    with pytest.raises(UsageError, match="another 'space'"):
        run_search(other, tmp_path / "run", resume=True)
