"""The start and the end of a search: the baseline, further seeds, the test split."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from paretax.evaluators import Evaluation, Failure, Measurement, Provenance, Reason
from paretax.results import Run, read_events, render
from paretax.results.final_scores import further_seeds
from paretax.results.leaderboard import table_cells
from paretax.search import Status, parse_config, plan, run_search
from paretax.search.samplers.nsga2 import NSGA2Sampler
from paretax.search.worker import Worker

CONFIG: dict[str, Any] = {
    "task": "breast_cancer",
    "objectives": ["accuracy", "size"],
    "space": {
        "width": {"type": "int", "low": 1, "high": 64},
        "sparsity": {"type": "float", "low": 0.0, "high": 0.9, "step": 0.1},
        "epochs": {"type": "int", "low": 10, "high": 40},
    },
    "executor": "inline",
    "sampler": "random",
    "batch": 8,
    "budget": {"trials": 24},
}


def measured(objective: str, value: float) -> Measurement:
    return Measurement(objective=objective, value=value, unit="", provenance=Provenance.MEASURED)


def diverged(message: str, reason: Reason = Reason.DIVERGED) -> Evaluation:
    return Evaluation(failure=Failure(reason=reason, message=message))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that train nothing: the wider the more accurate, the larger; seeds bring luck."""

    def score(self: Worker, candidate: Mapping[str, Any], seed: int) -> Evaluation:
        return Evaluation(measurements=(measured("size", 10.0 * candidate["width"]),))

    def train(self: Worker, candidate: Mapping[str, Any], seed: int, *more: Any) -> Evaluation:
        luck = (seed % 100) / 1e5
        return Evaluation(measurements=(measured("accuracy", candidate["width"] / 100 + luck),))

    for method, function in (("score", score), ("train", train), ("advance", train)):
        monkeypatch.setattr(Worker, method, function)
    for method in ("repeat", "test"):
        monkeypatch.setattr(Worker, method, train)
    monkeypatch.setattr(
        "paretax.evaluators.AccuracyEvaluator.advance_together", lambda *given: None
    )


def search(folder: Path, progress: Any = lambda status: None, **change: Any) -> Run:
    return run_search(plan(parse_config({**CONFIG, **change}, "config")), folder, progress=progress)


def resumed(folder: Path, **change: Any) -> Run:
    return run_search(plan(parse_config({**CONFIG, **change}, "config")), folder, resume=True)


def events(run: Run, kind: str) -> list[dict[str, Any]]:
    return [e for e in read_events(run.folder) if e["event"] == kind]


# The baseline -------------------------------------------------------------------------------------


def test_a_search_begins_with_the_users_own_configuration(tmp_path: Path) -> None:
    run = search(tmp_path / "run")
    assert run.baseline is run.trials[0]
    assert dict(run.trials[0].candidate) == {"width": 16, "sparsity": 0.0, "epochs": 20}
    assert [t.number for t in run.trials if t.baseline] == [0]
    assert len(run.trials) == 24
    own = search(tmp_path / "own", baseline={"width": 40, "optimizer": "sgd"})
    assert own.trials[0].candidate["width"] == 40
    assert own.trials[0].candidate["optimizer"] == "sgd"


def test_what_the_baseline_alone_has_is_told_with_what_the_others_have(tmp_path: Path) -> None:
    run = search(tmp_path / "run", baseline={"batch_size": 16, "optimizer": "adamw"})
    assert run.others_have == {"batch_size": 128, "optimizer": "adamw"}
    text = " ".join(render(run, None, "table").split())
    assert "Of what the space lacks, the baseline has batch_size 16 (the others 128)." in text
    headers, rows = table_cells(run, "cpu")
    shown = {row[0]: (row[headers.index("batch_size")], row[-1]) for row in rows}
    assert headers[-1] == "optimizer"
    assert shown.pop("0 (baseline)") == ("16", "adamw")
    assert set(shown.values()) == {("128", "adamw")}
    plain = search(tmp_path / "plain")
    assert plain.others_have == {}
    assert "the space lacks" not in render(plain, None, "table")


def test_limits_and_rungs_do_not_keep_it_from_being_trained(tmp_path: Path) -> None:
    told: list[Status] = []
    changes = {"limits": {"size": 100, "accuracy": 0.02}, "rungs": {"first": 3, "factor": 2}}
    run = search(tmp_path / "run", told.append, **changes)
    baseline = run.trials[0]
    assert baseline.trained
    assert baseline.rejected
    assert baseline.rungs == ()
    assert baseline.stopped is None
    assert baseline.test is not None
    assert len(baseline.repeats) == 3
    assert 0 not in [t.number for t in run.front("cpu")]
    assert any(t.stopped for t in run.trials)
    words = "the baseline (trial 0) breaks a limit: size@cpu must be at most 100 bytes"
    assert told[-1].trouble is not None
    assert told[-1].trouble.startswith(words.replace("@cpu", ""))
    text = " ".join(render(run, None, "table").split())
    assert "0 (baseline)" in text
    assert "breaks a limit" in text


def test_a_baseline_that_fails_is_said_at_once_and_the_search_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plainly = Worker.train

    def train(self: Worker, candidate: Any, seed: int) -> Evaluation:
        return (
            diverged("the loss is nan")
            if candidate["width"] == 16
            else plainly(self, candidate, seed)
        )

    monkeypatch.setattr(Worker, "train", train)
    told: list[Status] = []
    run = search(tmp_path / "run", told.append)
    assert sum(t.valid for t in run.trials) >= 20
    first = next(i for i, status in enumerate(told) if status.trouble is not None)
    assert told[first].trouble == "the baseline (trial 0) failed (diverged): the loss is nan"
    assert told[first].asked == 8
    found = json.loads(render(run, None, "json"))
    assert found["baseline"]["failure"]["message"] == "the loss is nan"
    assert list(found["front"][0]["gains"]) == ["smaller"]  # its size is known all the same


@pytest.mark.parametrize(("space", "within"), [({}, True), ({"sparsity": 0.5}, False)])
def test_the_sampler_is_told_of_it_where_it_lies_in_the_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: dict[str, Any], within: bool
) -> None:
    told: list[Any] = []
    plainly = NSGA2Sampler.tell

    def tell(self: NSGA2Sampler, state: Any, observations: Sequence[Any]) -> Any:
        told.extend(o.candidate for o in observations)
        return plainly(self, state, observations)

    monkeypatch.setattr(NSGA2Sampler, "tell", tell)
    changes = {"space": {**CONFIG["space"], **space}, "sampler": "nsga2"}
    run = search(tmp_path / "run", **changes)
    assert (run.trials[0].candidate in told) == within
    assert all(t.candidate in told for t in run.trials[1:])


@pytest.mark.parametrize(
    ("space", "count"), [({"width": 16, "sparsity": 0.0, "epochs": 20}, 1), ({"sparsity": 0.5}, 2)]
)
def test_a_budget_of_one_trial_leaves_one_for_the_space(
    tmp_path: Path, space: dict[str, Any], count: int
) -> None:
    changes = {"space": {**CONFIG["space"], **space}, "budget": {"trials": 1}}
    run = search(tmp_path / "run", **changes)
    assert len(run.trials) == count
    before = (run.folder / "journal.jsonl").read_bytes()
    resumed(run.folder, **changes)
    assert (run.folder / "journal.jsonl").read_bytes() == before


def test_a_journal_without_a_baseline_still_opens_and_goes_on(tmp_path: Path) -> None:
    run = search(tmp_path / "run", budget={"trials": 8})
    lines = list(read_events(run.folder))
    for event in lines:
        if event["event"] == "asked":
            event["trials"][0].pop("baseline", None)
        if event["event"] == "run":
            del event["limits"], event["config"]["baseline"], event["config"]["final_seeds"]
            event["format"] = 1
    older = [e for e in lines if e["event"] not in ("repeated", "ended")]
    text = "".join(json.dumps(event) + "\n" for event in older)
    (run.folder / "journal.jsonl").write_text(text)
    opened = Run.open(run.folder)
    assert opened.baseline is None
    assert "smaller" not in render(opened, None, "table")
    found = resumed(run.folder, budget={"trials": 16})
    assert len(found.trials) == 16
    assert found.baseline is None


# Further seeds ------------------------------------------------------------------------------------


def test_the_front_and_the_baseline_are_trained_with_further_seeds(tmp_path: Path) -> None:
    run = search(tmp_path / "run", final_seeds=4)
    expected = {t.number for t in run.contenders("cpu")} | {0}
    assert {t.number for t in run.trials if t.repeats} == expected
    for number in expected:
        trial = run.trials[number]
        assert sorted(r.seed for r in trial.repeats) == sorted(further_seeds(trial, 4))
        assert trial.seed not in [r.seed for r in trial.repeats]
    kinds = [e["event"] for e in read_events(run.folder)]
    assert set(kinds[kinds.index("repeated") :]) == {"repeated", "tested", "ended"}
    assert kinds.index("tested") > max(i for i, k in enumerate(kinds) if k == "repeated")


def test_none_where_none_are_asked_for(tmp_path: Path) -> None:
    run = search(tmp_path / "run", final_seeds=0)
    assert not any(t.repeats for t in run.trials)
    assert run.front("cpu") == run.contenders("cpu")
    assert all(t.test is not None for t in run.front("cpu"))


def test_more_of_them_when_a_run_is_resumed(tmp_path: Path) -> None:
    run = search(tmp_path / "run", final_seeds=1)
    more = resumed(run.folder, final_seeds=3)
    for trial in more.contenders("cpu"):
        assert {r.seed for r in trial.repeats} == set(further_seeds(trial, 3))
    counts = Counter((e["trial"], e["seed"]) for e in events(more, "repeated"))
    assert set(counts.values()) == {1}


def test_one_that_diverges_counts_for_its_seed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plainly = Worker.train

    def repeat(self: Worker, candidate: Any, seed: int) -> Evaluation:
        return diverged("bad luck") if seed % 4 == 0 else plainly(self, candidate, seed)

    monkeypatch.setattr(Worker, "repeat", repeat)
    run = search(tmp_path / "run")
    again = [r for t in run.contenders("cpu") for r in t.repeats]
    assert {r.failure is not None for r in again} == {True, False}
    assert all((r.failure is not None) == (r.seed % 4 == 0) for r in again)
    before = (run.folder / "journal.jsonl").read_bytes()
    resumed(run.folder)
    assert (run.folder / "journal.jsonl").read_bytes() == before


def test_cut_among_them_a_run_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole")
    lines = (whole.folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if b'"repeated"' in line)
    for cut in range(start, len(lines)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:cut]))
        run = resumed(folder)
        assert len(events(run, "repeated")) == len(events(whole, "repeated"))
        assert [t.number for t in run.front("cpu")] == [t.number for t in whole.front("cpu")]
        assert [t.test for t in run.trials] == [t.test for t in whole.trials]


# The test split -----------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, number: int, reason: Reason) -> None:
    """The test of one trial, by its place among those that are tested, fails."""
    plainly, seen = Worker.train, []

    def test(self: Worker, candidate: Any, seed: int, *more: Any) -> Evaluation:
        seen.append(seed)
        return (
            diverged("no score", reason) if len(seen) == number else plainly(self, candidate, seed)
        )

    monkeypatch.setattr(Worker, "test", test)


def test_a_test_that_fails_marks_its_trial_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, 2, Reason.DIVERGED)
    run = search(tmp_path / "run")
    shown = {t.number: t for t in [*run.front("cpu"), run.trials[0]]}.values()
    assert len(shown) > 2
    assert [t.untested is not None for t in shown].count(True) == 1
    assert all((t.test is None) == (t.untested is not None) for t in shown)
    assert events(run, "ended")
    before = (run.folder / "journal.jsonl").read_bytes()
    resumed(run.folder)
    assert (run.folder / "journal.jsonl").read_bytes() == before


def test_a_worker_that_was_lost_meanwhile_is_no_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, 1, Reason.WORKER_LOST)
    run = search(tmp_path / "run")
    assert any(t.untested is not None for t in run.trials)
    again = resumed(run.folder)
    assert not any(t.untested is not None for t in again.trials)
    assert all(t.test is not None for t in again.front("cpu"))
