"""The command line, called in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from paretax.cli import main


@dataclass(frozen=True, kw_only=True)
class Outcome:
    code: int
    out: str
    err: str


Command = Callable[..., Outcome]

CONFIG: dict[str, Any] = {
    "task": "breast_cancer",
    "objectives": ["accuracy", "latency", "size"],
    "space": {
        "width": {"type": "ordinal", "choices": [4, 8]},
        "depth": 1,
        "learning_rate": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True},
        "epochs": {"type": "int", "low": 3, "high": 6},
        "quantize": {"type": "categorical", "choices": [False, True]},
        "weight_bits": {"type": "int", "low": 2, "high": 8, "when": {"quantize": True}},
        "activation_bits": {"type": "int", "low": 4, "high": 8, "when": {"quantize": True}},
    },
    "budget": {"trials": 6},
    "sampler": {"name": "nsga2", "options": {"population": 4}},
    "executor": "inline",
}


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `paretax ARGUMENTS` and tells how it ended."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["paretax", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return Outcome(code=code, out=printed.out, err=printed.err)

    return run


def write(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """A config that works, to be spoilt."""
    copied: dict[str, Any] = yaml.safe_load(yaml.safe_dump(CONFIG))
    return copied


@pytest.fixture
def config_file(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    return lambda config: write(tmp_path / "config.yaml", config)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; not to be changed."""
    from paretax.search import parse_config, plan, run_search

    folder = tmp_path_factory.mktemp("runs") / "small"
    run_search(plan(parse_config(CONFIG, "the test's config")), folder)
    return folder
