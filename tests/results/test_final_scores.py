"""The final front over further seeds: means, standard errors, and what leaves it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.results import Run, choose, leaderboard, render, select
from paretax.results.final_scores import final, further_seeds, standard_error
from paretax.results.report import write_report

# The search's front: trial (accuracy, latency, size) 2 (0.95, 30, 800), 0 (0.9, 20, 400), the
# baseline, 1 (0.8, 25, 100).

Plain = dict[str, Any]
Again = Callable[..., Run]
LIMIT = {
    "name": "accuracy",
    "unit": "",
    "direction": "maximize",
    "target": None,
    "known_before_training": False,
    "limit": 0.5,
}


@pytest.fixture
def again(write_run: Callable[[list[Plain]], Run], events: list[Plain]) -> Again:
    """Writes the run with further trainings: trial to accuracies; None is a failed one."""

    def write(found: Mapping[int, list[float | None]], error: float | None = 0.01) -> Run:
        header = {**events[0], "limits": [LIMIT]}
        repeated: list[Plain] = []
        for trial, values in found.items():
            for index, value in enumerate(values):
                event: Plain = {"event": "repeated", "trial": trial, "seed": 1000 + index}
                if value is None:
                    message = "the training loss is nan"
                    event["failure"] = {"reason": "diverged", "message": message, "violation": 0.0}
                else:
                    detail = {"split": "validation"}
                    more = {} if error is None else {"standard_error": error}
                    event["measurement"] = {
                        "objective": "accuracy",
                        "value": value,
                        "unit": "",
                        "provenance": "measured",
                        "detail": {**detail, **more},
                    }
                repeated.append(event)
        return write_run([header, *events[1:-3], *repeated, *events[-3:]])

    return write


def test_the_mean_is_over_seeds_that_had_no_part_in_the_choice(again: Again) -> None:
    run = again({2: [0.92, 0.93, 0.94], 0: [0.9, 0.9, 0.91], 1: [0.8, 0.8, 0.8]})
    accuracy = run.objectives("cpu")[0]
    found = final(run.trial(2), accuracy)
    assert found.value == pytest.approx(0.93)
    spread = np.std([0.95, 0.92, 0.93, 0.94], ddof=1) / math.sqrt(3)
    assert found.detail["over_seeds"] == pytest.approx(spread)
    assert found.detail["of_split"] == pytest.approx(0.01)
    assert standard_error(found) == pytest.approx(math.hypot(spread, 0.01))
    assert found.detail["search"] == 0.95
    assert found.detail["seeds"] == [1000, 1001, 1002]
    assert found.detail["values"] == [0.92, 0.93, 0.94]
    assert final(run.trial(2), run.objectives("cpu")[1]).value == 30.0  # a cost stays
    assert run.trial(2).losses((accuracy,)) == (-0.95,)  # the search's own, for resuming


def test_without_an_error_of_the_split_the_seeds_alone_count(again: Again) -> None:
    run = again({2: [0.92, 0.94]}, error=None)
    found = final(run.trial(2), run.objectives("cpu")[0])
    expected = np.std([0.95, 0.92, 0.94], ddof=1) / math.sqrt(2)
    assert standard_error(found) == pytest.approx(expected)
    assert found.detail["of_split"] is None


def test_further_seeds_follow_from_the_trials_own(run: Run) -> None:
    one, other = run.trial(0), run.trial(1)
    assert further_seeds(one, 3) == [*further_seeds(one, 2), further_seeds(one, 3)[2]]
    assert len({*further_seeds(one, 3), *further_seeds(other, 3), one.seed, other.seed}) == 8
    assert all(0 <= seed < 2**31 for seed in further_seeds(one, 3))


def test_the_leaderboard_shows_means_with_standard_errors(again: Again) -> None:
    run = again({2: [0.92, 0.93, 0.94], 0: [0.9, 0.9, 0.9], 1: [0.8, 0.8, 0.8]})
    frame = leaderboard(run)
    assert frame["trial"].tolist() == [2, 0, 1]
    assert frame["accuracy"].tolist() == pytest.approx([0.93, 0.9, 0.8])
    assert frame["accuracy (se)"][1] == pytest.approx(0.01)
    assert frame["accuracy gain"].tolist() == pytest.approx([0.03, 0.0, -0.1])
    text = " ".join(render(run, None, "table").split())
    assert "0.930 ± 0.012" in text
    assert "0.900 ± 0.010" in text
    assert "+0.03 " in text
    assert "mean over 3 further seeds" in text
    found = json.loads(render(run, None, "json"))["front"][0]["final"]
    assert found["value"] == pytest.approx(0.93)
    assert found["detail"]["seeds"] == [1000, 1001, 1002]


def test_what_was_not_scored_again_yet_is_said(again: Again) -> None:
    text = " ".join(render(again({2: [0.92, 0.93]}), None, "table").split())
    assert "Not scored again yet, and so by luck too high: 0, 1." in text


def test_a_lucky_point_leaves_the_front(again: Again) -> None:
    """The baseline is as accurate, faster and smaller once luck is gone."""
    run = again({2: [0.9, 0.9, 0.9], 0: [0.91, 0.91, 0.91], 1: [0.8, 0.8, 0.8]})
    assert [t.number for t in run.contenders("cpu")] == [2, 0, 1]
    assert [t.number for t in run.front("cpu")] == [0, 1]
    assert [(t.number, why) for t, why in run.left("cpu")] == [(2, "dominated")]
    text = " ".join(render(run, None, "table").split())
    assert "Off the front once scored with further seeds: 2 (dominated)." in text
    left = json.loads(render(run, None, "json"))["left"]
    assert [(t["trial"], t["why"]) for t in left] == [(2, "dominated")]
    assert select(run, "cpu", [], "best:accuracy").number == 0


def test_a_mean_that_breaks_a_limit_is_said(again: Again) -> None:
    run = again({2: [0.93, 0.93], 0: [0.9, 0.9], 1: [0.5, 0.4]})
    assert [t.number for t in run.front("cpu")] == [2, 0]
    assert "1 (accuracy must be at least 0.5, got 0.45)" in " ".join(
        render(run, None, "table").split()
    )
    assert select(run, "cpu", [], "best:size").number == 0


def test_where_all_leave_the_reasons_are_told(again: Again) -> None:
    run = again({n: [0.4, 0.3] for n in (0, 1, 2)})
    assert run.front("cpu") == []
    with pytest.raises(UsageError, match=r"no point stayed.*trial 2: accuracy must be at least"):
        select(run, "cpu", [], "knee")
    assert "0 of 7 trials on the front" in " ".join(render(run, None, "table").split())


def test_trainings_that_fail_count_for_their_seeds_alone(again: Again) -> None:
    run = again({2: [0.92, None, 0.94], 0: [0.9, 0.9, 0.9], 1: [None, None, None]})
    assert final(run.trial(2), run.objectives("cpu")[0]).value == pytest.approx(0.93)
    text = " ".join(render(run, None, "table").split())
    assert "Trial 2 failed with 1 of 3 further seeds (the training loss is nan)." in text
    assert "1 (trained again, it failed with all of 3 seeds: the training loss is nan)" in text
    found = json.loads(render(run, None, "json"))["front"][0]["final"]
    assert [f["reason"] for f in found["failures"]] == ["diverged"]


def test_a_bound_is_on_means(again: Again) -> None:
    run = again({2: [0.92, 0.92], 0: [0.9, 0.9], 1: [0.8, 0.8]})
    with pytest.raises(
        UsageError, match=r"no point of the front has accuracy>=0\.95.*accuracy 0\.92"
    ):
        select(run, "cpu", ["accuracy>=0.95"], "knee")


@pytest.mark.parametrize(
    ("error", "alike"),
    [
        (0.0, []),  # 0.92 against 0.9: by the seeds alone; s is 0.0173 / sqrt(2), and 0
        (0.03, [0]),
    ],
)
def test_points_that_cannot_be_told_apart_are_named(
    again: Again, error: float, alike: list[int]
) -> None:
    run = again({2: [0.95, 0.95], 0: [0.9, 0.9], 1: [0.7, 0.7]}, error=error)
    found = choose(run, "cpu", [], "best:accuracy")
    assert found.trial.number == 2
    assert [t.number for t in found.alike] == alike
    if alike:
        assert "trial 2 cannot be told apart from trial 0" in (found.describe() or "")
    else:
        assert found.describe() is None
    assert choose(run, "cpu", [], "best:size").alike == ()  # a size is exact


def test_a_knee_that_luck_could_move_is_said(again: Again) -> None:
    """Knee 0: 1/9 + 0 + (3/7)^2 = 0.3; trial 1: 1 + 1/4; trial 2: 2. Error 0.2 moves it to 1."""
    values = {2: [0.95, 0.95], 0: [0.9, 0.9], 1: [0.8, 0.8]}
    sure = choose(again(values, error=0.001), "cpu", [], "knee")
    assert (sure.trial.number, sure.alike) == (0, ())


def test_a_knee_within_its_errors(again: Again) -> None:
    unsure = choose(
        again({2: [0.95, 0.95], 0: [0.9, 0.9], 1: [0.8, 0.8]}, error=0.2), "cpu", [], "knee"
    )
    assert unsure.trial.number == 0
    assert 1 in [t.number for t in unsure.alike]


def test_the_report_draws_standard_errors(again: Again, tmp_path: Any) -> None:
    write_report(again({2: [0.92, 0.94], 0: [0.9, 0.9], 1: [0.8, 0.8]}), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert '"error_y":{"array":' in page[page.index("</script></head>") :]


@pytest.mark.parametrize("trial", [0, 2])
def test_a_test_score_that_cannot_be_had_marks_its_trial(
    write_run: Callable[[list[Plain]], Run], events: list[Plain], trial: int
) -> None:
    for event in events:
        if event["event"] == "tested" and event["trial"] == trial:
            del event["measurement"]
            event["failure"] = {
                "reason": "diverged",
                "message": "the metric is nan",
                "violation": 0,
            }
    run = write_run(events)
    assert run.trial(trial).tested
    assert run.trial(trial).test is None
    text = render(run, None, "table")
    rows = {line.split()[0]: line.split() for line in text.splitlines() if "sgd" in line}
    assert "failed" in rows[str(trial)]
    assert sum("failed" in row for row in rows.values()) == 1
    reason = f"Trial {trial} has no score on the test split (diverged: the metric is nan)."
    assert reason in " ".join(text.split())
    found = {t["trial"]: t for t in json.loads(render(run, None, "json"))["front"]}
    assert found[trial]["untested"]["message"] == "the metric is nan"
    assert found[2 - trial]["test"] is not None
