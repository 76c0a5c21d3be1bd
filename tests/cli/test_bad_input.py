"""Misuse: one clear error, exit 2, nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paretax.cli.failing import failing_on
from paretax.errors import UsageError


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
    "epochs without end": ("space.epochs", 10**12, ["epochs", "from 1 to 1,000,000"]),
    "a longer integer than 64 bits": (
        "space.width",
        {"type": "int", "low": 1, "high": 2**64 - 1},
        ["'width'", "2^63", "18446744073709551615", "narrow"],
    ),
    "a batch without end": ("batch", 10**9, ["batch", "100000", "got 1000000000"]),
    "a population without end": (
        "sampler.options.population",
        10**9,
        ["the population", "from 2 to 100,000, got 1000000000"],
    ),
    "a switch for a number": ("budget", {"trials": True}, ["budget.trials", "not true or false"]),
    "a switch for a limit": ("limits", {"size": True}, ["limits", "not true or false"]),
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
        (["score", "digits", "--target", "cpu", "--set", "width=32,8"], ["width=32,depth=1"]),
        (["score", "digits", "--target", "cpu", "--set", "width=3,width=4"], ["'width' twice"]),
        (["score", "digits", "--target", "cpu", "--set", "epochs=1000000000000"], ["1,000,000"]),
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


YAMLS: dict[str, tuple[str | bytes, list[str]]] = {
    "empty": ("", ["must be a mapping", "None"]),
    "two documents": ("task: a\n---\ntask: b\n", ["single document"]),
    "deep": ("forbidden: " + "[" * 3000 + "]" * 3000, ["nested more than 50"]),
    "anchors upon anchors": (
        "a0: &a0 [l,l,l,l,l,l,l,l,l]\n"
        + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)),
        ["more than 100,000 values"],
    ),
    "within itself": ("limits: &x {a: *x}\n", ["*x stands within itself"]),
    "a python object": ("task: !!python/name:os.system\n", ["not YAML"]),
    "a tab": ("space:\n\twidth: 4\n", ["not YAML"]),
    "bytes": (b"\xff\xfe\x00", ["not YAML"]),
}


@pytest.mark.parametrize("case", YAMLS)
def test_a_file_that_is_no_config(case: str, command: Any, tmp_path: Path) -> None:
    text, words = YAMLS[case]
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    outcome = command("space", path)
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert len(outcome.err) < 1000
    for word in words:
        assert word in outcome.err


RAISING: dict[str, tuple[str, str, int | None]] = {
    "load": ("def load():\n    raise OSError('no disk')\n", "OSError: no disk", 3),
    "build": ("def build(config):\n    return [][0]\n", "IndexError", 3),
    "exit": ("import sys\ndef build(config):\n    sys.exit(3)\n", "SystemExit: 3", 4),
    "batch": (
        "def build(config):\n    def apply(params, x):\n        return x[:, :2] * (\n"
        "            1.0 if x.shape[0] > 1 else 2.0)\n"
        "    return (lambda key, x: {}), apply\n",
        "any batch size",
        5,
    ),
    "statistics": (
        "def build(config):\n    def apply(params, x):\n        return (x - x.mean(0))[:, :2]\n"
        "    return (lambda key, x: {}), apply\n",
        "others stand beside it",
        None,
    ),
}


@pytest.mark.parametrize("case", RAISING)
def test_what_the_users_code_does_wrong_is_said_with_its_line(
    case: str, command: Any, config: Any, config_file: Any, tmp_path: Path
) -> None:
    code, words, line = RAISING[case]
    module = tmp_path / f"raising_{case}.py"
    module.write_text(
        f"import paretax\n{code}"
        "from paretax.tasks.breast_cancer import task as good\n"
        "task = paretax.classification('raising', load=globals().get('load', good.load),\n"
        "    build=globals().get('build', good.model), defaults={'width': 4, 'depth': 1})\n"
    )
    config["task"] = f"raising_{case}:task"
    outcome = command("search", config_file(config), "--out", tmp_path / "run")
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert words in outcome.err
    if line is not None:
        assert f"({module.name}:{line})" in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_cannot_be_built(
    command: Any, config: Any, config_file: Any, tmp_path: Path
) -> None:
    config["space"]["distill"] = True
    config["teacher"] = {"candidate": {"width": 0}}
    outcome = command("search", config_file(config), "--out", tmp_path / "run")
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("error: the teacher ")
    assert outcome.err.count("\n") == 1
    assert '"width": 0' in outcome.err


@pytest.mark.parametrize("error", [UsageError, RuntimeError])
def test_codes_for_a_terminal_in_a_message_are_shown_and_not_obeyed(
    command: Any, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fails(*_: object) -> None:
        with failing_on(RuntimeError):
            raise error("a \x1b[2J of \x9b\u202ethe task's own")

    monkeypatch.setattr("paretax.results.run.Run.open", fails)
    outcome = command("leaderboard", "somewhere")
    assert outcome.code == (2 if error is UsageError else 1)
    assert "a \\x1b[2J of \\x9b\\u202ethe task's own" in outcome.err
    assert outcome.err.rstrip("\n").isprintable()
