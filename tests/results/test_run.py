"""A run as its journal tells it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from paretax.errors import UsageError
from paretax.evaluators import Measurement, Objective, Provenance, Reason
from paretax.results import Run, Trial
from paretax.results.run import apply_event, front, latest
from paretax.spaces import Candidate

Plain = dict[str, Any]

SIZE = {"objective": "size", "value": 9.0, "unit": "bytes", "provenance": "modelled"}
ACCURACY = {"objective": "accuracy", "value": 0.5, "unit": "", "provenance": "measured"}
FAILURE = {"reason": "diverged", "message": "nan", "violation": 0.0}
LIMIT = {"reason": "limit_exceeded", "message": "too large", "violation": 0.5}


def applied(*events: Plain) -> dict[int, Trial]:
    trials: dict[int, Trial] = {}
    for event in events:
        apply_event(trials, event)
    return trials


ASKED = {
    "event": "asked",
    "batch": 3,
    "trials": [
        {"trial": 7, "candidate": {"width": 4}, "seed": 11},
        {"trial": 8, "candidate": {"width": 5}, "seed": 12},
    ],
}


def test_asked_trials_are_begun() -> None:
    trials = applied(ASKED)
    assert trials == {
        7: Trial(number=7, batch=3, candidate=Candidate({"width": 4}), seed=11),
        8: Trial(number=8, batch=3, candidate=Candidate({"width": 5}), seed=12),
    }
    for trial in trials.values():
        assert [trial.done, trial.valid, trial.rejected, trial.trained] == [False] * 4


def test_a_scored_trial_is_not_done() -> None:
    trial = applied(ASKED, {"event": "scored", "trial": 7, "measurements": [SIZE]})[7]
    assert trial.measurements == (Measurement.from_json(SIZE),)
    assert [trial.done, trial.valid, trial.rejected, trial.trained] == [False] * 4


@pytest.mark.parametrize("event", ["scored", "trained"])
@pytest.mark.parametrize(("plain", "rejected"), [(FAILURE, False), (LIMIT, True)])
def test_a_failed_trial_is_done_and_not_valid(event: str, plain: Plain, rejected: bool) -> None:
    trial = applied(ASKED, {"event": event, "trial": 7, "measurements": [], "failure": plain})[7]
    assert trial.failure is not None
    assert trial.failure.reason is Reason(plain["reason"])
    assert trial.failure.violation == plain["violation"]
    assert trial.done
    assert not trial.valid
    assert not trial.trained
    assert trial.rejected is rejected


def test_a_trained_trial_keeps_what_was_scored() -> None:
    scored = {"event": "scored", "trial": 7, "measurements": [SIZE]}
    trained = {"event": "trained", "trial": 7, "measurements": [ACCURACY]}
    trials = applied(ASKED, scored, trained)
    assert [m.objective for m in trials[7].measurements] == ["size", "accuracy"]
    assert trials[7].trained
    assert trials[7].valid
    assert trials[7].done
    assert not trials[8].done  # the other one is as it was
    assert not trials[8].measurements


def test_a_later_measurement_of_a_quantity_takes_the_place_of_the_earlier() -> None:
    """A size that was modelled before training is known exactly after it."""
    other = {**SIZE, "target": "cpu"}
    exact = {**SIZE, "value": 8.0}
    scored = {"event": "scored", "trial": 7, "measurements": [SIZE, other]}
    trained = {"event": "trained", "trial": 7, "measurements": [ACCURACY, exact]}
    found = applied(ASKED, scored, trained)[7].measurements
    assert [(m.objective, m.target, m.value) for m in found] == [
        ("size", "cpu", 9.0),
        ("accuracy", None, 0.5),
        ("size", None, 8.0),
    ]
    size = Objective(
        name="size", unit="bytes", direction="minimize", target=None, known_before_training=True
    )
    trial = applied(ASKED, scored, trained)[7]
    assert trial.measured(size).value == 8.0
    assert latest((), found) == found
    assert latest(found, ()) == found


def test_a_metric_beyond_its_limit_counts_as_trained_and_not_as_valid() -> None:
    trained = {"event": "trained", "trial": 7, "measurements": [ACCURACY], "failure": LIMIT}
    trial = applied(ASKED, trained)[7]
    assert trial.trained
    assert trial.rejected
    assert not trial.valid


def test_a_tested_trial_has_the_test_apart() -> None:
    trained = {"event": "trained", "trial": 7, "measurements": [ACCURACY]}
    tested = {"event": "tested", "trial": 7, "measurement": {**ACCURACY, "value": 0.25}}
    trial = applied(ASKED, trained, tested)[7]
    assert trial.test is not None
    assert trial.test.value == 0.25
    assert [m.value for m in trial.measurements] == [0.5]


@pytest.mark.parametrize("event", ["resumed", "stopped", "ended", "of another version"])
def test_other_events_change_no_trial(event: str) -> None:
    assert applied(ASKED, {"event": event, "trial": 7}) == applied(ASKED)


def test_a_measurement_is_found_by_objective_and_target() -> None:
    latency = Objective(
        name="latency", unit="us", direction="minimize", target="cpu", known_before_training=True
    )
    found = [
        Measurement(
            objective="latency", value=v, unit="us", provenance=Provenance.MEASURED, target=t
        )
        for v, t in [(1.0, "other"), (2.0, "cpu")]
    ]
    trial = replace(applied(ASKED)[7], measurements=tuple(found))
    assert trial.measured(latency).value == 2.0
    assert trial.losses((latency, replace(latency, direction="maximize"))) == (2.0, -2.0)
    with pytest.raises(KeyError, match="trial 7 has no measurement of latency@gpu"):
        trial.measured(replace(latency, target="gpu"))


# A whole run --------------------------------------------------------------------------------------


def test_a_run_opens_by_the_text_of_its_path(run: Run) -> None:
    assert Run.open(str(run.folder)).trials == Run.open(run.folder).trials == run.trials


def test_a_run_is_read_back(run: Run) -> None:
    assert run.task_name == "breast_cancer"
    assert run.targets == ("cpu",)
    assert [t.number for t in run.trials] == list(range(7))
    assert [t.batch for t in run.trials] == [0] * 5 + [1] * 2
    assert [t.seed for t in run.trials] == [100 + n for n in range(7)]
    assert [t.number for t in run.trials if t.valid] == [0, 1, 2, 6]
    assert [t.number for t in run.trials if t.rejected] == [3, 5]
    assert all(t.done for t in run.trials)
    assert run.references == {"cpu": ((-0.785, 31.0, 870.0), (-0.95, 20.0, 100.0))}
    assert run.workbench().task.name == "breast_cancer"


def test_the_front_is_of_valid_trials_best_first(run: Run) -> None:
    assert [t.number for t in run.front("cpu")] == [2, 0, 1]


def test_of_equal_trials_the_first_is_on_the_front(run: Run) -> None:
    twin = replace(run.trials[0], number=99)
    found = front((*run.trials, twin), run.objectives("cpu"))
    assert [t.number for t in found] == [2, 0, 1]


def test_no_valid_trial_no_front(run: Run) -> None:
    assert front((), run.objectives("cpu")) == []
    assert front((run.trials[3], run.trials[4]), run.objectives("cpu")) == []


def test_a_run_without_trials(write_run: Callable[[list[Plain]], Run], events: list[Plain]) -> None:
    run = write_run(events[:1])
    assert run.trials == ()
    assert run.references == {}
    assert run.front("cpu") == []
    with pytest.raises(UsageError, match="has no trial yet, got 0"):
        run.trial(0)


def test_every_target_has_a_front_of_its_own(
    write_run: Callable[[list[Plain]], Run], events: list[Plain]
) -> None:
    header = events[0]
    other = {**header["objectives"][1], "target": "other"}
    targets = [{"name": "cpu", "batch": 4}, {"name": "other", "batch": 1}]
    changed: list[Plain] = [
        {
            **header,
            "config": {**header["config"], "targets": targets},
            "objectives": [header["objectives"][0], header["objectives"][1], other],
        }
    ]
    for event in events[1:]:
        if event["event"] == "scored":  # the order on the other target is turned round
            (latency,) = (m for m in event["measurements"] if m["objective"] == "latency")
            turned = {**latency, "target": "other", "value": 100.0 - latency["value"]}
            event = {**event, "measurements": [*event["measurements"], turned]}
        changed.append(event)
    run = write_run(changed)
    assert run.targets == ("cpu", "other")
    assert [o.title for o in run.objectives("cpu")] == ["accuracy", "latency@cpu"]
    assert [o.title for o in run.objectives("other")] == ["accuracy", "latency@other"]
    assert [t.number for t in run.front("cpu")] == [2, 0]
    assert [t.number for t in run.front("other")] == [2]
    assert run.target("other") == "other"
    with pytest.raises(UsageError, match="several targets, name one: cpu, other"):
        run.target(None)


def test_the_only_target_need_not_be_named(run: Run) -> None:
    assert run.target(None) == "cpu"
    assert run.target("cpu") == "cpu"
    with pytest.raises(UsageError, match=r"unknown target 'cpus' in run .*'cpu'.*Valid: cpu"):
        run.target("cpus")


@pytest.mark.parametrize("number", [-1, 7, 99])
def test_an_unknown_trial_says_which_there_are(run: Run, number: int) -> None:
    assert run.trial(6).number == 6
    with pytest.raises(UsageError, match=f"has trials 0 to 6, got {number}"):
        run.trial(number)
