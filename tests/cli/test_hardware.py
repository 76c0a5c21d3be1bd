"""Scores and searches on devices that are elsewhere, as a user asks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from paretax.evaluators.compilers import targets
from paretax.hardware_profiles import profile_names
from paretax.results import Run

SIX = "cpu,tpu-v5e,tpu-v6e,a100,h100,aarch64"


def test_one_command_scores_models_on_six_targets(command: Any) -> None:
    outcome = command(
        "score", "mnist5k", "mnist5k_vit", "--target", SIX, "--precision", "f32,bf16,w8a8",
        "--format", "json",
    )  # fmt: skip
    assert outcome.code == 0, outcome
    found = json.loads(outcome.out)
    assert [(f["task"], f["precision"]) for f in found] == [
        (task, form) for task in ("mnist5k", "mnist5k_vit") for form in ("f32", "bf16", "w8a8")
    ]
    for scored in found:
        assert scored["failure"] is None
        latencies = {m["target"]: m for m in scored["measurements"] if m["objective"] == "latency"}
        assert set(latencies) == set(SIX.split(","))
        for target, m in latencies.items():
            assert m["provenance"] == ("measured" if target == "cpu" else "modelled")
            low, high = m["detail"]["interval"]
            assert low <= m["value"] <= high


def test_the_table_says_how_each_number_was_obtained(command: Any) -> None:
    outcome = command("score", "digits", "--target", "cpu", "--target", "aarch64")
    assert outcome.code == 0, outcome
    assert outcome.err == ""
    rows = {line.split()[0]: line for line in outcome.out.splitlines() if line.split()}
    assert " m" in rows["cpu"]
    assert " e" in rows["aarch64"]
    assert " c" in rows["aarch64"]
    assert "m measured, c compiled for the target, e estimated" in outcome.out
    assert "aarch64: data sheet only" in outcome.out
    assert "cpu: " not in outcome.out  # it is measured
    checked = command("score", "digits", "--target", "h200").out
    assert "h200: checked: fitted to 41 calls" in checked


def own_profile(folder: Path, **changes: Any) -> Path:
    """A user's file, made of a shipped one."""
    from paretax.hardware_profiles import profile

    shipped = Path(profile.__file__).parent / "raspberry-pi-5.yaml"
    plain = {**yaml.safe_load(shipped.read_text("utf-8")), "name": "mine", **changes}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(plain), "utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peak": {"f32": "-4 GFLOP/s"}}, ["peak.f32", "-4"]),
        ({"peak": {"f32": "4 GFLOP/s", "f33": "4 GFLOP/s"}}, ["unknown dtype 'f33'", "'f32'"]),
        ({"clock": 2.4}, ["clock", "unit", "2.4"]),
        ({"launch_overhead": "2 GB"}, ["launch_overhead", "2 GB"]),
        ({"memory": []}, ["unknown key 'memory'", "'memories'"]),
    ],
    ids=["negative", "dtype", "no unit", "wrong unit", "key"],
)
def test_a_wrong_profile(
    changes: dict[str, Any], words: list[str], command: Any, tmp_path: Path
) -> None:
    outcome = command("score", "digits", "--target", own_profile(tmp_path, **changes))
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    for word in words:
        assert word in outcome.err


def test_a_missing_extra(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "find_spec", lambda module: None)
    outcome = command("score", "digits", "--target", "tpu-v5e")
    assert outcome.code == 2
    assert outcome.err.startswith("error: target 'tpu-v5e' needs XLA's compiler for TPUs")
    assert outcome.err.endswith("pip install 'paretax[tpu]'\n")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--precision", "int8"], "unknown precision 'int8'"),
        (["--precision", "w8a9"], "Did you mean 'w8a8'"),
        (["--batch", "0"], "batch"),
    ],
)
def test_bad_arguments(arguments: list[str], word: str, command: Any) -> None:
    outcome = command("score", "digits", "--target", "cpu", *arguments)
    assert outcome.code == 2
    assert word in outcome.err


def test_what_is_told_twice_is_refused(command: Any, tmp_path: Path) -> None:
    twice = command("score", "digits", "--target", "t4,t4")
    assert twice.code == 2
    assert "two targets must not share a name, got 't4' twice" in twice.err
    both = command(
        "score", "digits", "--target", "t4", "--set", "precision=float8", "--precision", "bf16"
    )
    assert both.code == 2
    assert "--precision bf16 sets precision, which --set gives as 'float8'" in both.err


def test_profiles(command: Any, tmp_path: Path) -> None:
    listed = json.loads(command("profiles", "list", "--format", "json").out)
    assert [p["name"] for p in listed] == list(profile_names())
    assert len(listed) >= 23
    shown = command("profiles", "show", own_profile(tmp_path)).out
    assert yaml.safe_load(shown)["name"] == "mine"


@pytest.mark.slow  # measures, so it wants a quiet machine
def test_calibrating(command: Any, tmp_path: Path) -> None:
    """Forty programs: too few to be good, enough to be written, read and used."""
    path = tmp_path / "here.yaml"
    outcome = command("profiles", "calibrate", "--programs", 40, "-o", path)
    assert outcome.code == 0, outcome
    assert "programs measured" in outcome.out
    plain = yaml.safe_load(path.read_text("utf-8"))
    assert plain["calibration"]["programs"] <= 40
    assert (tmp_path / "here.npz").is_file()
    scored = command("score", "digits", "--target", path, "--format", "json")
    assert scored.code == 0, scored
    (latency,) = (m for m in json.loads(scored.out)["measurements"] if m["objective"] == "latency")
    assert 0 < latency["detail"]["modelled"] < 100 * latency["value"]


# Searches -----------------------------------------------------------------------------------------


@pytest.fixture
def away(config: dict[str, Any]) -> dict[str, Any]:
    """A search for devices that are not here."""
    config["targets"] = [
        {"name": "aarch64", "batch": 4},
        {"name": "h100", "batch": 4, "parts": True},
    ]
    config["objectives"] = ["accuracy", "latency", "energy@aarch64"]
    config["limits"] = {"memory@aarch64": 100_000}
    return config


def test_a_search_for_devices_that_are_elsewhere(
    away: dict[str, Any], command: Any, config_file: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    searched = command("search", config_file(away), "--out", out)
    assert searched.code == 0, searched
    run = Run.open(out)
    assert set(run.header["profiles"]) == {"aarch64", "h100"}
    for trial in run.trials:
        found = {(m.objective, m.target): m for m in trial.measurements}
        assert found["latency", "aarch64"].provenance == "modelled"
        assert found["memory", "aarch64"].provenance == "compiled"
        assert found["memory", "h100"].provenance == "modelled"
        assert found["latency", "h100"].detail["parts"] == 2
    for trial in run.front("h100"):
        (whole,) = trial.whole
        assert (whole.objective, whole.target) == ("latency", "h100")
    board = command("leaderboard", out, "--target", "h100")
    assert "The latency from parts was off by" in " ".join(board.out.split())
    plain = json.loads(command("leaderboard", out, "--target", "h100", "--format", "json").out)
    assert plain["agreement"]["parts"]["programs"] >= 1
    assert plain["agreement"]["model"] is None
    bundle = tmp_path / "bundle"
    for target in ("h100", "aarch64"):
        exported = command("export", out, "--target", target, "-o", bundle / target)
        assert exported.code == 0, exported
        assert command("verify", bundle / target).code == 0
    manifest = json.loads((bundle / "h100" / "manifest.json").read_text())
    assert manifest["program"]["platforms"] == ["cpu", "cuda"]
    reproduced = command("reproduce", out, run.front("h100")[0].number)
    assert reproduced.code == 0, reproduced


def test_a_search_on_a_users_own_profile(
    config: dict[str, Any], command: Any, config_file: Any, tmp_path: Path
) -> None:
    config["targets"] = [str(own_profile(tmp_path))]
    config["budget"] = {"trials": 2}
    out = tmp_path / "run"
    searched = command("search", config_file(config), "--out", out)
    assert searched.code == 0, searched
    assert Run.open(out).targets == ("mine",)
    assert command("leaderboard", out, "--target", "mine").code == 0
    # Another profile of that name gives other figures.
    config["budget"] = {"trials": 3}
    own_profile(tmp_path, launch_overhead="99 us")
    again = command("search", config_file(config), "--out", out, "--resume")
    assert again.code == 2
    assert "another profile of 'mine'" in again.err


def test_model_and_accelerator_are_searched_together(
    config: dict[str, Any], command: Any, config_file: Any, tmp_path: Path
) -> None:
    config["targets"] = ["systolic"]
    config["objectives"] = ["accuracy", "latency", "area"]
    config["space"]["array_rows"] = {"type": "ordinal", "choices": [4, 16, 64]}
    config["space"]["array_columns"] = {"type": "ordinal", "choices": [4, 16, 64]}
    out = tmp_path / "run"
    searched = command("search", config_file(config), "--out", out)
    assert searched.code == 0, searched
    areas = {
        (t.candidate["array_rows"], t.candidate["array_columns"]): m.value
        for t in Run.open(out).trials
        for m in t.measurements
        if m.objective == "area"
    }
    assert len(areas) > 1
    assert len(set(areas.values())) > 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objectives": ["accuracy", "latency@gpu"]}, ["'gpu'", "Valid: cpu"]),
        ({"objectives": ["accuracy", "accuracy@cpu"]}, ["same on every target"]),
        ({"objectives": ["accuracy", "area"]}, ["'area' cannot be had of target 'cpu'"]),
        ({"targets": ["h100"], "limits": {"latency_p99": 3}}, ["modelled, not measured"]),
        ({"targets": [{"name": "cpu", "measure": True, "parts": True}]}, ["not both"]),
        ({"targets": [{"name": "cpu", "grid": -1}]}, ["targets.0.grid", "-1"]),
        ({"space": {"array_rows": {"type": "int", "low": 0, "high": 4}}}, ["at least 1", "0"]),
    ],
)
def test_bad_configs(
    changes: dict[str, Any],
    words: list[str],
    config: dict[str, Any],
    command: Any,
    config_file: Any,
    tmp_path: Path,
) -> None:
    outcome = command("search", config_file({**config, **changes}), "--out", tmp_path / "run")
    assert outcome.code == 2, outcome
    assert outcome.err.count("\n") == 1
    for word in words:
        assert word in outcome.err
    assert not (tmp_path / "run").exists()
