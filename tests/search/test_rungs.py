"""Rungs: what is dominated stops early, and what goes on ends as it would have without them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.results import Run, render, reproduce
from paretax.search import parse_config, plan, run_search
from paretax.search.rungs import Rungs
from paretax.spaces import Candidate

CONFIG: dict[str, Any] = {
    "task": "breast_cancer",
    "space": {
        "width": {"type": "ordinal", "choices": [4, 8]},
        "depth": 1,
        "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
        "epochs": {"type": "int", "low": 2, "high": 14},
        "batch_size": 64,
    },
    "objectives": ["accuracy", "size"],
    "budget": {"trials": 24},
    "sampler": "random",
    "batch": 8,
    "rungs": {"first": 3, "factor": 2},
    "final_seeds": 1,
    "executor": "inline",
}


def search(folder: Path, **change: Any) -> Run:
    return run_search(plan(parse_config({**CONFIG, **change}, "the config")), folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return search(tmp_path_factory.mktemp("rungs") / "run")


def events(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "journal.jsonl").open()]


def test_the_rungs_of_a_candidate() -> None:
    rungs = Rungs(first=3, factor=3)
    assert rungs.of(Candidate({"epochs": 81})) == (3, 9, 27)
    assert rungs.of(Candidate({"epochs": 82})) == (3, 9, 27, 81)
    assert rungs.of(Candidate({"epochs": 3})) == ()
    assert rungs.of(Candidate({})) == (3, 9)  # of the default, 20
    assert rungs.of(Candidate({"epochs": 81, "pruning": "lottery_ticket"})) == ()


def test_the_best_share_goes_on_by_front_and_then_by_crowding() -> None:
    losses = {
        10: np.array([0.0, 4.0]),  # the front: ends first, then the lonely ones
        11: np.array([1.0, 1.0]),
        12: np.array([0.9, 1.3]),
        13: np.array([4.0, 0.0]),
        14: np.array([1.0, 4.0]),  # dominated
        15: np.array([5.0, 5.0]),
    }
    assert Rungs(1, 2).goes_on(losses) == {10, 11, 13}
    assert Rungs(1, 3).goes_on(losses) == {10, 13}
    assert Rungs(1, 2).goes_on({3: np.array([1.0])}) == {3}


def test_a_share_of_those_at_a_rung_goes_on(run: Run) -> None:
    """In the first round the best half of those that came to the first rung."""
    first = [t for t in run.trials if t.batch == 0]
    came = [t for t in first if t.rungs]
    stopped = [t for t in came if t.stopped == 3]
    assert len(came) >= 4
    assert len(came) - len(stopped) == -(-len(came) // 2)
    staying = [t for t in came if t not in stopped]
    sizes = {t.number: t.measurements[0].value for t in first}
    for gone in stopped:  # nobody who stays is dominated by one who goes
        for kept in staying:
            worse = gone.rungs[0].value <= kept.rungs[0].value
            assert worse or sizes[gone.number] >= sizes[kept.number]


def test_every_trial_ends(run: Run) -> None:
    assert len(run.trials) == 24
    assert all(t.done for t in run.trials)
    kinds = Counter("stopped" if t.stopped else "valid" if t.valid else "other" for t in run.trials)
    assert kinds["stopped"] >= 4
    assert kinds["valid"] >= 8
    for trial in run.trials:
        if trial.stopped:
            assert not trial.trained
            assert trial.rungs[-1].detail["epoch"] == trial.stopped
            assert trial.stopped < int(trial.candidate["epochs"])
    assert not any(t.stopped for t in run.front("cpu"))


def test_the_place_of_a_stopped_trial_is_given_to_a_new_one(run: Run) -> None:
    """At no time are more than eight under way, and in the second round there are eight again."""
    for number in range(max(t.batch for t in run.trials) + 1):
        here = [
            t
            for t in run.trials
            if t.batch <= number and t.last_round is not None and t.last_round >= number
        ]
        assert len(here) <= 8
        asked_later = any(t.batch > number for t in run.trials)
        assert len(here) == 8 or not asked_later


def test_what_goes_on_ends_as_without_rungs(run: Run, tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", rungs=None, budget={"trials": 8})
    checked = 0
    for trial in run.trials[:8]:
        if trial.valid:
            twin = whole.trials[trial.number]
            assert twin.candidate == trial.candidate
            assert [m.value for m in twin.measurements] == [m.value for m in trial.measurements]
            checked += bool(trial.rungs)
    assert checked


def test_trials_are_reproduced_also_where_they_stopped(run: Run) -> None:
    stopped = next(t for t in run.trials if t.stopped)
    survivor = next(t for t in run.trials if t.valid and t.rungs)
    for trial in (stopped, survivor):
        assert reproduce(run, trial).equal


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8, 0.95])
def test_a_search_that_was_cut_off_ends_the_same(run: Run, tmp_path: Path, share: float) -> None:
    lines = (run.folder / "journal.jsonl").read_text().splitlines(keepends=True)
    folder = tmp_path / "cut"
    folder.mkdir()
    cut = int(share * len(lines))
    (folder / "journal.jsonl").write_text("".join(lines[:cut]) + lines[cut][:20])
    resumed = run_search(plan(parse_config(CONFIG, "the config")), folder, resume=True)

    def plain(found: Run) -> list[Any]:
        return [
            (
                t.candidate,
                t.batch,
                t.stopped,
                t.failure,
                [m.value for m in (*t.measurements, *t.rungs)],
                t.test and t.test.value,
            )
            for t in found.trials
        ]

    assert plain(resumed) == plain(run)


def test_what_shared_programs_is_reproduced_the_same_way(tmp_path: Path) -> None:
    """Where many train in one program, products are summed in another order than alone."""
    space = {**CONFIG["space"], "width": 4, "weight_bits": 3, "quantize": True, "qat": "lsq"}
    run = search(
        tmp_path / "run", population="batch", space=space, budget={"trials": 10}, final_seeds=0
    )
    bench, ways = run.workbench(), set()
    for trial in run.trials:
        at = trial.rungs[-1] if trial.stopped is not None else trial.measurements[-1]
        ways.add(tuple(lanes for _, lanes, _ in at.detail.get("lanes", [])))
        if trial.number % 3 == 1 or len(ways) < 4:
            assert reproduce(run, trial, bench).equal, trial.number
    assert len(ways) >= 3, ways  # programs of several widths, that changed on the way
    assert all(trial.test is not None for trial in run.front("cpu"))


def test_the_leaderboard_counts_what_was_stopped(run: Run) -> None:
    stopped = sum(t.stopped is not None for t in run.trials)
    assert f"{stopped} stopped at a rung" in " ".join(render(run, None, "table").split())


@pytest.mark.parametrize(
    ("rungs", "message"),
    [
        ({"first": 0}, "rungs.first"),
        ({"first": 3, "factor": 1}, "rungs.factor"),
        ({"first": 3, "factr": 2}, "factr"),
        ({}, "first"),
    ],
)
def test_bad_rungs(rungs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_config({**CONFIG, "rungs": rungs}, "the config")
