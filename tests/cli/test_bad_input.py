"""Misuse: one clear error, exit 2, nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def _set(config: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        config = config[key]
    config[last] = value


FLOAT = {"type": "float", "low": 0.1, "high": 1.0}

CASES = {
    "unknown parameter": (
        "space.widht",
        {"type": "int", "low": 1, "high": 4},
        ["'widht'", "Did you mean 'width'"],
    ),
    "impossible range": (
        "space.learning_rate",
        {"type": "float", "low": 0.1, "high": 0.01},
        ["low must not exceed high", "low=0.1", "swap"],
    ),
    "log of zero": (
        "space.learning_rate",
        {"type": "float", "low": 0, "high": 0.1, "log": True},
        ["log scale needs low > 0"],
    ),
    "condition on a missing parameter": (
        "space.weight_bits",
        {"type": "int", "low": 2, "high": 8, "when": {"quantise": True}},
        ["'quantise'", "Did you mean 'quantize'"],
    ),
    "cyclic condition": (
        "space.quantize",
        {"type": "categorical", "choices": [False, True], "when": {"weight_bits": 4}},
        ["cycle", "quantize", "weight_bits"],
    ),
    "a bit-width of 1": (
        "space.weight_bits",
        {"type": "int", "low": 1, "high": 8, "when": {"quantize": True}},
        ["weight_bits", "from 2 to 8", "1"],
    ),
    "a bit-width of 9": (
        "space.activation_bits",
        {"type": "int", "low": 4, "high": 9, "when": {"quantize": True}},
        ["activation_bits", "from 2 to 8", "9"],
    ),
    "full sparsity": (
        "space.sparsity",
        {"type": "float", "low": 0.0, "high": 1.0},
        ["sparsity", "below 1"],
    ),
    "batch larger than the data": ("space.batch_size", 100000, ["batch_size", "100000", "lower"]),
    "unknown optimiser": ("space.optimizer", "adamm", ["optimizer", "adamw", "'adamm'"]),
    "unknown built-in task": ("task", "digitz", ["'digitz'", "Did you mean 'digits'"]),
    "task that does not import": ("task", "no_such_module:task", ["no module 'no_such_module'"]),
    "attribute that does not exist": (
        "task",
        "paretax.tasks.digits:tusk",
        ["'tusk'", "Did you mean 'task'"],
    ),
    "not a task": ("task", "paretax.tasks.digits:MLP", ["paretax.tasks.digits:MLP"]),
    "target that does not exist": ("targets", ["cpuu"], ["'cpuu'", "Did you mean 'cpu'"]),
    "objective nobody evaluates": (
        "objectives",
        ["accuracy", "latencie"],
        ["'latencie'", "Did you mean 'latency'"],
    ),
    "limit on what nobody evaluates": ("limits", {"energi": 3}, ["'energi'", "Valid"]),
    "no budget": ("budget", {}, ["budget", "trials or minutes"]),
    "unknown sampler": ("sampler", "nsga3", ["'nsga3'", "Did you mean 'nsga2'"]),
    "unknown option": (
        "sampler",
        {"name": "nsga2", "options": {"populaton": 4}},
        ["'populaton'", "Did you mean 'population'"],
    ),
    "unknown key": ("buget", {"trials": 3}, ["'buget'", "Did you mean 'budget'"]),
    "everything forbidden": (
        "forbidden",
        [{"width": [4, 8]}],
        ["forbidden clauses exclude all"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_config_is_refused(
    case: str, command: Any, config: Any, config_file: Any, tmp_path: Path
) -> None:
    path, value, words = CASES[case]
    _set(config, path, value)
    outcome = command("search", config_file(config), "--out", tmp_path / "run")
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    for word in words:
        assert word in outcome.err
    assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]


BAD_DATA = {
    "nan": ("inputs[3, 1] = np.nan", ["missing values (NaN)", "`imputation`", "mean"]),
    "infinite": ("inputs[3, 1] = np.inf", ["finite", "1 infinite"]),
    "single": ("labels[:] = 1", ["two classes"]),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_refused(
    case: str, command: Any, config: Any, config_file: Any, tmp_path: Path
) -> None:
    spoil, words = BAD_DATA[case]
    (tmp_path / f"spoilt_{case}.py").write_text(
        "import numpy as np\n"
        "import paretax\n"
        "from paretax.tasks.breast_cancer import _build\n"
        "def load():\n"
        "    inputs, labels = np.ones((60, 30), np.float32), np.arange(60) % 2\n"
        f"    {spoil}\n"
        "    return paretax.split(inputs, labels)\n"
        "task = paretax.classification('spoilt', load=load, build=_build,\n"
        "                              defaults={'width': 4, 'depth': 1})\n"
    )
    before = {p.name for p in tmp_path.iterdir()} | {"config.yaml", "__pycache__"}
    config["task"] = f"spoilt_{case}:task"
    config["space"]["batch_size"] = 16
    outcome = command("search", config_file(config), "--out", tmp_path / "run")
    assert outcome.code == 2, outcome
    for word in words:
        assert word in outcome.err
    assert {p.name for p in tmp_path.iterdir()} <= before


def test_a_run_in_use_is_not_overwritten(
    command: Any, config: Any, config_file: Any, tmp_path: Path
) -> None:
    path, run = config_file(config), tmp_path / "run"
    assert command("search", path, "--out", run, "--trials", 2).code == 0
    before = (run / "journal.jsonl").read_bytes()
    again = command("search", path, "--out", run)
    assert again.code == 2
    assert "--resume" in again.err
    other = {**config, "seed": 1}
    resumed = command("search", config_file(other), "--out", run, "--resume")
    assert resumed.code == 2
    assert "'seed'" in resumed.err
    assert (run / "journal.jsonl").read_bytes() == before


def test_nothing_to_resume(command: Any, config: Any, config_file: Any, tmp_path: Path) -> None:
    outcome = command("search", config_file(config), "--out", tmp_path / "run", "--resume")
    assert outcome.code == 2
    assert "no run to resume" in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_journal_of_another_version(command: Any, small_run: Path, tmp_path: Path) -> None:
    lines = (small_run / "journal.jsonl").read_text().splitlines()
    header = json.loads(lines[0]) | {"format": 99}
    (tmp_path / "journal.jsonl").write_text(json.dumps(header) + "\n")
    outcome = command("leaderboard", tmp_path)
    assert outcome.code == 2
    assert "format 99" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["leaderboard", "RUN", "--target", "gpu"], ["'gpu'", "Valid: cpu"]),
        (["leaderboard", "nowhere"], ["no run"]),
        (["export", "RUN", "-o", "OUT", "--where", "accuracy=>2"], ["accuracy>=0.97"]),
        (["export", "RUN", "-o", "OUT", "--where", "accuracy>2"], ["best there are"]),
        (["export", "RUN", "-o", "OUT", "--pick", "best:speed"], ["'speed'"]),
        (["export", "RUN", "-o", "OUT", "--pick", "first"], ["knee"]),
        (["reproduce", "RUN", "99"], ["trials 0 to 5"]),
        (["verify", "RUN"], ["no bundle"]),
        (["score", "digits", "--target", "cpuu"], ["Did you mean 'cpu'"]),
        (["score", "digits", "--target", "cpu", "--set", "widht=3"], ["Did you mean 'width'"]),
        (["score", "digits", "--target", "cpu", "--set", "width"], ["width=32"]),
        (["profiles", "show", "tpu"], ["'tpu'"]),
        (["space", "nowhere.yaml"], ["no config"]),
    ],
)
def test_bad_arguments(
    arguments: list[str], words: list[str], command: Any, small_run: Path, tmp_path: Path
) -> None:
    places = {"RUN": str(small_run), "OUT": str(tmp_path / "bundle")}
    outcome = command(*(places.get(a, a) for a in arguments))
    assert outcome.code == 2, outcome
    for word in words:
        assert word in outcome.err
    assert list(tmp_path.iterdir()) == []
