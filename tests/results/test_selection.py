"""Taking one point of a front."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from paretax.errors import UsageError
from paretax.results import Run, select

# The front: trial (accuracy, latency, size) 2 (0.95, 30, 800), 0 (0.9, 20, 400), 1 (0.8, 25, 100).


def test_the_knee_is_nearest_to_the_best_of_everything(run: Run) -> None:
    """Scaled squared distances: 2: 0 + 1 + 1; 0: 1/9 + 0 + (3/7)^2; 1: 1 + 1/4 + 0."""
    assert select(run, "cpu", [], "knee").number == 0


def test_the_knee_is_of_what_the_bounds_leave(run: Run) -> None:
    """Without trial 0, trial 2 is best in accuracy alone, trial 1 in latency and size."""
    assert select(run, "cpu", ["latency>20"], "knee").number == 1


@pytest.mark.parametrize(("name", "number"), [("accuracy", 2), ("latency", 0), ("size", 1)])
def test_the_best_in_one_objective(run: Run, name: str, number: int) -> None:
    assert select(run, "cpu", [], f"best:{name}").number == number


@pytest.mark.parametrize(
    ("where", "pick", "number"),
    [
        (["accuracy>=0.9"], "best:size", 0),
        (["accuracy>0.9"], "best:size", 2),
        (["size<=400"], "best:accuracy", 0),
        (["size<400"], "best:accuracy", 1),
        (["latency>=25"], "best:latency", 1),
        (["latency>25"], "best:latency", 2),
        (["latency<=20", "size<=400", "accuracy>=0.9"], "knee", 0),
        (["accuracy>=0.85", "latency>20"], "best:latency", 2),
        ([" accuracy >= 9e-1 "], "best:size", 0),
        (["size<10"], "knee", None),
        (["accuracy>=nan"], "knee", None),
    ],
)
def test_every_bound_must_hold(run: Run, where: list[str], pick: str, number: int | None) -> None:
    if number is None:
        with pytest.raises(UsageError, match="no point of the front has"):
            select(run, "cpu", where, pick)
    else:
        assert select(run, "cpu", where, pick).number == number


def test_a_bound_that_nothing_keeps_says_what_the_best_is(run: Run) -> None:
    with pytest.raises(
        UsageError,
        match=(
            r"no point of the front has accuracy>=0\.99; the best there are: "
            r"accuracy 0\.95, latency 20, size 100"
        ),
    ):
        select(run, "cpu", ["accuracy>=0.99"], "knee")
    with pytest.raises(UsageError, match=r"has size<100; .* accuracy 0.8, latency 25, size 100"):
        select(run, "cpu", ["accuracy<0.9", "size<100"], "knee")


@pytest.mark.parametrize(
    "bound", ["accuracy", "accuracy=0.9", "accuracy==0.9", ">=0.9", "accuracy>=", "size<=1kB", ""]
)
def test_a_bound_that_cannot_be_read_is_refused(run: Run, bound: str) -> None:
    with pytest.raises(UsageError) as caught:
        select(run, "cpu", [bound], "knee")
    assert str(caught.value) == f'--where must be like "accuracy>=0.97", got {bound!r}'


def test_an_unknown_objective_names_the_nearest(run: Run) -> None:
    message = "unknown objective 'latncy'.*'latency'.*Valid: accuracy, latency, size"
    with pytest.raises(UsageError, match=message):
        select(run, "cpu", ["latncy<=3"], "knee")
    with pytest.raises(UsageError, match=message):
        select(run, "cpu", [], "best:latncy")
    with pytest.raises(UsageError, match="unknown objective 'memory'"):  # measured, not asked for
        select(run, "cpu", ["memory<1"], "knee")


@pytest.mark.parametrize("pick", ["", "elbow", "best", "best:", "knee:size", "worst:size"])
def test_an_unknown_pick_is_refused(run: Run, pick: str) -> None:
    with pytest.raises(UsageError, match=rf"--pick must be 'knee' or .* got '{pick}'"):
        select(run, "cpu", [], pick)


def test_nothing_to_take(
    write_run: Callable[[list[dict[str, Any]]], Run], events: list[dict[str, Any]]
) -> None:
    run = write_run(events[:3])
    with pytest.raises(UsageError, match=r"the run '.*' has no finished trial"):
        select(run, "cpu", [], "knee")
