"""What a search tells of itself where nobody watches a bar."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest

from paretax.cli.progress import Bar
from paretax.search import Status

STATUS = Status(
    phase="scoring",
    total=24,
    asked=8,
    done=3,
    failed=1,
    rejected=2,
    stopped=0,
    front=2,
    hypervolume=None,
)


def test_a_line_now_and_then_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("paretax.cli.progress.time.monotonic", lambda: clock[0])
    with Bar() as bar:
        for second in range(0, 40):
            clock[0] = float(second)
            bar(replace(STATUS, done=second))
            bar(replace(STATUS, done=second))
        clock[0] = 45.0
        bar(replace(STATUS, phase="training", done=40, hypervolume=1.25))
    captured = capsys.readouterr()
    assert captured.err == ""
    first, *lines = captured.out.splitlines()
    assert first == "starting"
    assert [line.split(":")[0] for line in lines] == ["scoring"] * 4 + ["training"]
    assert lines[0] == "scoring: 3/24 trials, 1 failed, 2 rejected; front 2"
    assert lines[-1] == "training: 43/24 trials, 1 failed, 2 rejected; front 2, hypervolume 1.250"


def test_a_search_of_several_targets_ends_with_commands_that_work(
    command: Any, config: Any, config_file: Any, tmp_path: Any
) -> None:
    config["targets"] = ["cpu", "systolic"]
    config["objectives"] = ["accuracy", "latency"]
    config["budget"] = {"trials": 2}
    searched = command("search", config_file(config), "--out", tmp_path / "a run")
    assert searched.code == 0, searched.err
    progress_lines, closing = searched.out.split("Read it with:")
    assert "trials, " in progress_lines.splitlines()[1]
    commands = [line.strip() for line in closing.splitlines() if line.strip()]
    assert len(commands) == 2
    for line, target in zip(commands, ("cpu", "systolic"), strict=True):
        words = shlex.split(line)
        assert words[0] == "paretax"
        shown = command(*words[1:])
        assert shown.code == 0, shown.err
        assert f" on {target} " in shown.out
