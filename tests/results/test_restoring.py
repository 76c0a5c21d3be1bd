"""Training a trial again, from the journal alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.evaluators import Failure, Reason, Workbench
from paretax.results import Run, reproduce
from paretax.results.restoring import trained_weights
from paretax.results.run import load_weights
from paretax.spaces import Candidate


@pytest.fixture(scope="module")
def bench(searched: Run) -> Workbench:
    """The run's task."""
    return searched.workbench()


def test_a_trial_comes_out_the_same_again(searched: Run, bench: Workbench) -> None:
    trial = searched.front("cpu")[0]
    found = reproduce(searched, trial, bench)
    (recorded,) = (m.value for m in trial.measurements if m.objective == "accuracy")
    assert (found.metric, found.recorded, found.again) == ("accuracy", recorded, recorded)
    assert found.equal
    kept = load_weights(searched.folder, trial.number)
    assert kept is not None
    assert found.weights is not None
    assert found.weights.keys() == kept.keys()
    for name, array in kept.items():
        np.testing.assert_array_equal(found.weights[name], array)


def test_another_seed_is_not_the_same_trial(searched: Run, bench: Workbench) -> None:
    """The control of the test above."""
    trial = searched.front("cpu")[0]
    found = reproduce(searched, replace(trial, seed=trial.seed + 1), bench)
    kept = load_weights(searched.folder, trial.number)
    assert kept is not None
    assert found.weights is not None
    assert any(not np.array_equal(found.weights[n], a) for n, a in kept.items())


def test_a_divergence_is_reproduced_by_its_reason(searched: Run, bench: Workbench) -> None:
    wild = {**searched.trials[0].candidate, "optimizer": "sgd", "learning_rate": 1e6, "depth": 2}
    trial = replace(
        searched.trials[0],
        candidate=Candidate({**wild, "epochs": 20, "width": 8}),
        measurements=(),
        trained=False,
        failure=Failure(reason=Reason.DIVERGED, message="the training loss is nan"),
    )
    found = reproduce(searched, trial, bench)
    assert (found.recorded, found.again) == ("diverged", "diverged")
    assert found.equal
    assert found.weights is None


@pytest.mark.parametrize("reason", [r for r in Reason if r is not Reason.DIVERGED])
def test_a_failure_from_outside_is_not_trained_again(
    searched: Run, bench: Workbench, reason: Reason
) -> None:
    failure = Failure(reason=reason, message="the message")
    trial = replace(searched.trials[0], measurements=(), trained=False, failure=failure)
    with pytest.raises(UsageError, match="trial 0 has no training to reproduce: the message"):
        reproduce(searched, trial, bench)


def test_a_trial_that_is_not_trained_yet_cannot_be_reproduced(
    searched: Run, bench: Workbench
) -> None:
    trial = replace(searched.trials[0], measurements=(), trained=False)
    with pytest.raises(UsageError, match="the search has not come to it yet"):
        reproduce(searched, trial, bench)


def test_kept_weights_are_taken_as_they_are(searched: Run, bench: Workbench) -> None:
    trial = searched.front("cpu")[0]
    kept = trained_weights(searched, trial, bench)
    elsewhere = replace(searched, folder=Path("nothing is kept here"))
    again = trained_weights(elsewhere, trial, bench)
    assert kept.keys() == again.keys()
    for name, array in kept.items():
        np.testing.assert_array_equal(again[name], array)
