"""The commands on a small real run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from paretax.results import Journal, Run, read_events


def test_search_then_everything_that_reads_a_run(
    command: Any, config: Any, config_file: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    searched = command("search", config_file(config), "--out", run)
    assert (searched.code, searched.err) == (0, "")
    assert "6 trials" in searched.out
    opened = Run.open(run)
    assert len(opened.trials) == 6
    tested = {t.number for t in opened.trials if t.test is not None}
    baseline = {t.number for t in opened.trials if t.baseline}
    assert len(baseline) == 1
    assert tested == {t.number for t in opened.front("cpu")} | baseline

    page = tmp_path / "page.html"
    reported = command("report", run, "-o", page)
    assert (reported.code, reported.out) == (0, f"wrote {page}\n")
    assert "6 trials" in page.read_text("utf-8")

    bundle = tmp_path / "bundle"
    exported = command("export", run, "--target", "cpu", "--pick", "best:size", "-o", bundle)
    assert exported.code == 0, exported.err
    assert {p.name for p in bundle.iterdir()} == {
        "config.yaml",
        "manifest.json",
        "model_card.md",
        "program.stablehlo",
        "weights.safetensors",
    }
    shutil.rmtree(run)  # a bundle stands on its own
    verified = command("verify", bundle)
    assert verified.code == 0, verified.err
    weights = bundle / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    broken = command("verify", bundle)
    assert broken.code == 1
    assert "checksum" in broken.err


def test_trials_option_replaces_the_budget(
    command: Any, config: Any, config_file: Any, tmp_path: Path
) -> None:
    path = config_file(config)
    assert command("search", path, "--out", tmp_path / "run", "--trials", 2).code == 0
    assert len(Run.open(tmp_path / "run").trials) == 2
    more = command("search", path, "--out", tmp_path / "run", "--trials", 5, "--resume")
    assert more.code == 0, more.err
    assert len(Run.open(tmp_path / "run").trials) == 5


def test_the_default_folder_has_the_name_of_the_config(
    command: Any, config: Any, config_file: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("search", config_file(config), "--trials", 2).code == 0
    assert len(Run.open(tmp_path / "runs" / "config").trials) == 2


def test_leaderboard_formats_tell_the_same(command: Any, small_run: Path) -> None:
    front = [t.number for t in Run.open(small_run).front("cpu")]
    plain = json.loads(command("leaderboard", small_run, "--format", "json").out)
    assert [row["trial"] for row in plain["front"]] == front
    for row in plain["front"]:
        assert {m["provenance"] for m in row["measurements"]} <= {
            "measured",
            "compiled",
            "modelled",
        }
    csv = command("leaderboard", small_run, "--format", "csv").out.splitlines()
    assert len(csv) == 1 + len(front)
    for form in ("table", "markdown"):
        text = command("leaderboard", small_run, "--target", "cpu", "--format", form).out
        assert "measured" in text
        assert "modelled" in text


def test_reproduce_gives_every_recorded_accuracy_again(command: Any, small_run: Path) -> None:
    for trial in Run.open(small_run).trials:
        outcome = command("reproduce", small_run, trial.number)
        assert outcome.code == 0, outcome.err
        assert "reproduced exactly" in outcome.out


def test_reproduce_tells_a_difference(command: Any, small_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small_run, copy)
    trial = Run.open(copy).trials[0]
    (recorded,) = (m.value for m in trial.measurements if m.objective == "accuracy")
    events = json.dumps(list(read_events(copy)))
    (copy / "journal.jsonl").unlink()
    with Journal(copy) as journal:
        for event in json.loads(events.replace(f'"value": {recorded}', '"value": 0.123')):
            journal.append(event)
    outcome = command("reproduce", copy, 0)
    assert outcome.code == 1
    assert "not reproduced" in outcome.err


def test_score_measures_without_training(command: Any) -> None:
    plain = json.loads(
        command("score", "digits", "--target", "cpu", "--set", "width=8", "--format", "json").out
    )
    found = {m["objective"]: m for m in plain["measurements"]}
    latencies = {"latency", "latency_p99", "latency_queued"}
    assert set(found) == latencies | {"memory", "throughput", "energy", "price", "co2", "size"}
    # 64 -> 8 -> 8 -> 10, float32: weights and biases
    assert found["size"]["value"] == 4 * (64 * 8 + 8 + 8 * 8 + 8 + 8 * 10 + 10)
    four = command(
        "score", "digits", "--target", "cpu", "--set", "width=8", "--set", "weight_bits=4"
    )
    assert four.code == 0
    assert "modelled" in four.out


def test_space_and_profiles(command: Any, config: Any, config_file: Any) -> None:
    shown = command("space", config_file(config))
    assert shown.code == 0
    assert "quantize = true" in shown.out
    assert "7 parameters" in shown.out
    plain = json.loads(command("space", config_file(config), "--format", "json").out)
    # 2 widths x 4 epochs x (no quantisation + 7 x 5 widths)
    assert plain["size"] == {"combinations": 2 * 4 * (1 + 7 * 5), "exact": True, "continuous": 1}
    assert "cpu" in command("profiles", "list").out
    assert "platform: cpu" in command("profiles", "show", "cpu").out


def test_csv_is_read_by_pandas(command: Any, small_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "front.csv"
    file.write_text(command("leaderboard", small_run, "--format", "csv").out)
    assert list(pd.read_csv(file)["trial"]) == [t.number for t in Run.open(small_run).front("cpu")]


def test_check_names_damage_and_saves_the_rest(
    command: Any, small_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    whole = command("check", run)
    assert (whole.code, whole.err) == (0, "")
    assert "6 trials" in whole.out
    path = run / "journal.jsonl"
    content = bytearray(path.read_bytes())
    last = content.rindex(b'"tested"')
    content[last + 1] ^= 1
    path.write_bytes(content)
    line = content[:last].count(b"\n") + 1
    for words in ("leaderboard", "report", "check"):
        refused = command(words, run)
        assert refused.code == (1 if words == "check" else 2)
        assert f"line {line} of" in refused.err + refused.out
        assert "--repair" in refused.err
    saved = command("check", run, "--repair")
    assert saved.code == 0, saved.err
    assert "6 trials" in saved.out
    assert command("leaderboard", tmp_path / "run-repaired").code == 0


def test_a_search_goes_on_with_what_was_saved(
    command: Any, config: Any, config_file: Any, tmp_path: Path
) -> None:
    path, run = config_file(config), tmp_path / "run"
    assert command("search", path, "--out", run).code == 0
    before = Run.open(run)
    lines = (run / "journal.jsonl").read_bytes().splitlines(keepends=True)
    second = [i for i, line in enumerate(lines) if b'"event":"asked"' in line][1]
    lines[second] = lines[second].replace(b"candidate", b"candidatf")
    (run / "journal.jsonl").write_bytes(b"".join(lines))
    again = command("search", path, "--out", run, "--resume")
    assert again.code == 2
    assert f"line {second + 1} of" in again.err
    assert command("check", run, "--repair", "-o", tmp_path / "saved").code == 0
    again = command("search", path, "--out", tmp_path / "saved", "--resume", "--trials", 7)
    assert (again.code, again.err) == (0, "")
    after = Run.open(tmp_path / "saved")
    assert len(after.trials) == 7
    first = [t for t in before.trials if t.batch == 0]
    assert [t.candidate for t in after.trials[: len(first)]] == [t.candidate for t in first]
    assert [t.measurements for t in after.trials[: len(first)]] == [t.measurements for t in first]
    assert len({t.number for t in after.trials}) == len({t.candidate for t in after.trials}) == 7
    assert all(t.done for t in after.trials)
