"""The bootstrap against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from paretax.evaluators.sampling_error import sampling_error


def mean(outputs: np.ndarray, targets: np.ndarray) -> float:
    return float((outputs == targets).mean())


@pytest.mark.parametrize(("right", "examples"), [(264, 270), (30, 60), (900, 1000)])
def test_of_a_share_it_is_that_of_the_binomial(right: int, examples: int) -> None:
    outputs, targets = (np.arange(examples) < right).astype(int), np.ones(examples, int)
    share = right / examples
    expected = np.sqrt(share * (1 - share) / examples)
    assert sampling_error(mean, outputs, targets) == pytest.approx(expected, rel=0.15)


def test_of_a_mean_it_is_the_deviation_over_the_root_of_the_count() -> None:
    errors = np.random.default_rng(3).normal(5.0, 2.0, 400)

    def average(outputs: np.ndarray, targets: np.ndarray) -> float:
        return float((outputs - targets).mean())

    found = sampling_error(average, errors, np.zeros(400))
    assert found == pytest.approx(errors.std(ddof=1) / 20, rel=0.15)


def test_outputs_stay_with_their_targets() -> None:
    outputs = np.random.default_rng(0).normal(size=(50, 3))
    assert sampling_error(lambda o, t: float(np.abs(o - t).max()), outputs, outputs.copy()) == 0.0


def test_the_same_each_time() -> None:
    outputs, targets = np.arange(40) % 3, np.zeros(40, int)
    assert sampling_error(mean, outputs, targets) == sampling_error(mean, outputs, targets)


def test_resamples_on_which_the_metric_has_no_value_are_passed_over() -> None:
    outputs = np.array([1.0, 0.0] * 20 + [1.0])
    targets = np.array([1] * 40 + [2])  # the one of class 2 is in 63% of the resamples

    def picky(o: np.ndarray, t: np.ndarray) -> float:
        if 2 not in t:
            raise ValueError("class 2 is missing")
        return mean(o, t)

    assert sampling_error(picky, outputs, targets) == pytest.approx(0.077, rel=0.2)
    assert sampling_error(lambda o, t: float("nan"), outputs, targets) is None
    assert sampling_error(mean, outputs[:1], targets[:1]) is None


def test_large_outputs_are_drawn_again_less_often() -> None:
    count = 0

    def counted(outputs: np.ndarray, targets: np.ndarray) -> float:
        nonlocal count
        count += 1
        return float(outputs[0, 0])

    sampling_error(counted, np.zeros((10, 10)), np.zeros(10))
    assert count == 200
    count = 0
    sampling_error(counted, np.broadcast_to(np.zeros(1), (10, 10**5)), np.zeros(10))
    assert count == 20
