"""The search as a whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.results import Journal, Run, read_events
from paretax.search import SearchError, Status, parse_config, plan, run_search
from paretax.search.engine import trial_seed
from paretax.spaces import Candidate

BASE: dict[str, Any] = {
    "task": "breast_cancer",
    "objectives": ["accuracy", "size"],
    "space": {
        "width": {"type": "ordinal", "choices": [4, 8]},
        "learning_rate": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True},
        "epochs": {"type": "int", "low": 2, "high": 5},
        "weight_bits": {"type": "int", "low": 2, "high": 8},
    },
    "budget": {"trials": 8},
    "sampler": {"name": "random", "options": {"batch": 4}},
    "executor": "inline",
}


def search(out: Path, progress: Any = lambda status: None, **changes: Any) -> Run:
    return run_search(plan(parse_config({**BASE, **changes}, "config")), out, progress=progress)


def values(run: Run) -> list[Any]:
    return [[(m.objective, m.value) for m in t.measurements] for t in run.trials]


def test_same_seed_same_result_and_another_seed_another(tmp_path: Path) -> None:
    one, two = search(tmp_path / "1"), search(tmp_path / "2")
    other = search(tmp_path / "3", seed=1)
    assert [t.candidate for t in one.trials] == [t.candidate for t in two.trials]
    assert values(one) == values(two)
    assert [t.candidate for t in one.trials] != [t.candidate for t in other.trials]


@pytest.mark.slow
def test_ray_and_inline_give_the_same(tmp_path: Path) -> None:
    inline = search(tmp_path / "1", sampler="nsga2")
    spread = search(tmp_path / "2", sampler="nsga2", executor="ray", workers=2)
    assert values(inline) == values(spread)


def test_what_is_beyond_a_limit_is_not_trained(tmp_path: Path) -> None:
    run = search(tmp_path / "run", limits={"size": 250})
    rejected = [t for t in run.trials if t.rejected and not t.baseline]
    assert rejected
    for trial in rejected:
        assert [m.objective for m in trial.measurements] == ["size"]
        assert trial.failure is not None
        assert "at most 250 bytes" in trial.failure.message
    for trial in run.trials:
        if trial.valid:
            assert {m.objective for m in trial.measurements} == {"accuracy", "size"}
            assert all(m.value <= 250 for m in trial.measurements if m.objective == "size")


def test_a_limit_on_the_metric_holds_after_training(tmp_path: Path) -> None:
    run = search(tmp_path / "run", limits={"accuracy": 0.9})
    for trial in run.trials:
        (accuracy,) = (m.value for m in trial.measurements if m.objective == "accuracy")
        assert trial.valid == (accuracy >= 0.9)
    assert all(t.valid for t in run.front("cpu"))


def test_no_candidate_is_tried_twice_and_a_small_space_ends_the_search(tmp_path: Path) -> None:
    space = {"width": {"type": "ordinal", "choices": [4, 8]}, "epochs": 2, "depth": 1}
    for sampler in ("random", "grid", "nsga2", "tpe"):
        run = search(tmp_path / sampler, space=space, sampler=sampler)
        candidates = [t.candidate for t in run.trials if not t.baseline]
        assert sorted(c["width"] for c in candidates) == [4, 8]
        whys = [e["why"] for e in read_events(run.folder) if e["event"] == "stopped"]
        assert whys == ["the space holds no further candidate"]


def test_only_the_final_front_is_scored_on_the_test_split(tmp_path: Path) -> None:
    run = search(tmp_path / "run")
    shown = {t.number for t in run.front("cpu")} | {0}  # the baseline
    assert {t.number for t in run.trials if t.test is not None} == shown
    seen = [e["event"] for e in read_events(run.folder)]
    assert set(seen[seen.index("tested") :]) == {"tested", "ended"}


def test_progress_counts_every_trial(tmp_path: Path) -> None:
    told: list[Status] = []
    search(tmp_path / "run", progress=told.append, limits={"size": 300})
    last = told[-1]
    assert (last.total, last.asked) == (8, 8)
    assert last.done + last.failed + last.rejected == 8
    assert last.rejected > 0
    volumes = [s.hypervolume for s in told if s.hypervolume is not None]
    assert volumes == sorted(volumes)


def test_minutes_end_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now: Iterator[float] = iter(np.arange(0.0, 1e4, 25.0).tolist())
    monkeypatch.setattr("paretax.search.engine.time.monotonic", lambda: next(now))
    run = search(tmp_path / "run", budget={"minutes": 1})
    assert 0 < len(run.trials) <= 12
    assert all(t.done for t in run.trials)


def test_seeds_follow_from_the_candidate() -> None:
    one, other = Candidate({"width": 4}), Candidate({"width": 8})
    assert trial_seed(0, one) == trial_seed(0, Candidate({"width": 4}))
    assert len({trial_seed(0, one), trial_seed(1, one), trial_seed(0, other)}) == 3
    assert 0 <= trial_seed(0, one) < 2**31


def test_a_run_in_use_by_another_process_is_refused(tmp_path: Path) -> None:
    run = search(tmp_path / "run", budget={"trials": 2})
    with Journal(run.folder, resume=True), pytest.raises(UsageError, match="in use"):
        run_search(plan(parse_config(BASE, "config")), run.folder, resume=True)


FRAGILE = """
import paretax
from paretax.tasks.breast_cancer import _build, _load
def build(config, rngs, inputs):
    if config["width"] in {bad}:
        raise ValueError("no such width")
    return _build({{**config, "depth": 1}}, rngs, inputs)
task = paretax.classification("fragile", load=_load, build=build, defaults={{"width": 4}})
"""


def fragile(folder: Path, name: str, bad: tuple[int, ...]) -> str:
    (folder / f"{name}.py").write_text(FRAGILE.format(bad=bad))
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return f"{name}:task"


def test_a_candidate_that_cannot_be_built_fails_alone(tmp_path: Path) -> None:
    run = search(tmp_path / "run", task=fragile(tmp_path, "fragile_one", (8,)), seed=3)
    for trial in run.trials:
        if trial.candidate["width"] == 8:
            assert trial.failure is not None
            assert trial.failure.reason == "build_error"
            assert "no such width" in trial.failure.message
            kept = (tmp_path / "run" / "failures" / f"{trial.number}.txt").read_text()
            assert kept.startswith("score:\nTraceback")
            assert "no such width" in kept
        else:
            assert trial.valid
            assert not (tmp_path / "run" / "failures" / f"{trial.number}.txt").exists()
    assert len({t.candidate["width"] for t in run.trials}) == 2


def test_a_divergent_training_is_a_result(tmp_path: Path) -> None:
    space = {**BASE["space"], "optimizer": "sgd", "learning_rate": 1e30}
    del space["weight_bits"]
    with pytest.raises(
        SearchError, match=r"all of the first 2 trials failed, 2 of them with diverged"
    ):
        search(tmp_path / "run", space=space, budget={"trials": 2})
    config = parse_config({**BASE, "space": space, "budget": {"trials": 2}}, "config")
    with pytest.raises(SearchError, match=r"all of the first 2 trials failed"):  # nor by going on
        run_search(plan(config), tmp_path / "run", resume=True)
    run = Run.open(tmp_path / "run")
    reasons = {t.failure.reason for t in run.trials if t.failure is not None}
    assert reasons == {"diverged"}
    assert run.front("cpu") == []


def test_a_search_in_which_all_fails_gives_up(tmp_path: Path) -> None:
    space = {**BASE["space"], "optimizer": "sgd", "learning_rate": 1e30}
    with pytest.raises(SearchError, match=r"first 12 trials failed.*diverged"):
        search(tmp_path / "run", space=space, budget={"trials": 40})
    assert len(Run.open(tmp_path / "run").trials) == 12


def test_one_that_fails_for_all_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such width"):
        search(tmp_path / "run", task=fragile(tmp_path, "fragile_all", (4, 8)))
    assert not (tmp_path / "run").exists()
