"""Training a trial again, from the journal alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.evaluators import (
    AccuracyEvaluator,
    Evaluation,
    Failure,
    Measurement,
    Provenance,
    Reason,
    Workbench,
)
from paretax.results import NotReproducedError, Run, Trial, reproduce
from paretax.results.restoring import trained_weights
from paretax.results.weights import load_weights, save_weights


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
    kept = load_weights(searched.folder, trial)
    assert kept is not None
    assert found.weights is not None
    assert found.weights.keys() == kept.keys()
    for name, array in kept.items():
        np.testing.assert_array_equal(found.weights[name], array)


def diverged(trial: Trial) -> Trial:
    failure = Failure(reason=Reason.DIVERGED, message="the training loss is nan")
    return replace(trial, measurements=(), trained=False, failure=failure)


def test_a_divergence_is_reproduced_by_its_reason(
    searched: Run, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = diverged(searched.trials[0])
    again = Evaluation(failure=trial.failure)
    monkeypatch.setattr(AccuracyEvaluator, "evaluate", lambda *given: again)
    found = reproduce(searched, trial, bench)
    assert (found.recorded, found.again) == ("diverged", "diverged")
    assert found.equal
    assert found.weights is None

    score = Measurement(objective="accuracy", value=0.5, unit="", provenance=Provenance.MEASURED)
    again = Evaluation(measurements=(score,), weights={"w": np.zeros(1)})
    found = reproduce(searched, trial, bench)
    assert (found.recorded, found.again) == ("diverged", 0.5)
    assert not found.equal
    assert list(found.weights or {}) == ["w"]
    with pytest.raises(NotReproducedError, match=r"scored diverged in the run and 0\.5 now"):
        trained_weights(replace(searched, folder=Path("nothing is kept here")), trial, bench)


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


def test_kept_weights_are_taken_as_they_are(
    searched: Run, bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> Evaluation:
        raise AssertionError("it was trained again")

    monkeypatch.setattr(AccuracyEvaluator, "evaluate", refuse)
    run = replace(searched, folder=tmp_path)
    written = save_weights(tmp_path, 0, {"w": np.arange(3.0)})
    found = trained_weights(run, replace(run.trials[0], weights=written), bench)
    assert list(found) == ["w"]
    np.testing.assert_array_equal(found["w"], [0.0, 1.0, 2.0])
    with pytest.raises(AssertionError, match="trained again"):
        trained_weights(run, run.trials[1], bench)
    with pytest.raises(UsageError, match="was changed since it was written"):
        trained_weights(run, replace(run.trials[0], weights="0" * 64), bench)
