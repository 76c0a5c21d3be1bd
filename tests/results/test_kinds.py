"""Candidates of every kind: searched, reproduced, exported and verified, with one score."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from paretax.evaluators import AccuracyEvaluator, Provenance
from paretax.results import Run, Trial, export_bundle, load_bundle, reproduce, verify_bundle
from paretax.results.manifest import MANIFEST, WEIGHTS
from paretax.results.weights import load_weights
from paretax.search import parse_config, plan, run_search

SMALL = {"width": 12, "depth": 1, "epochs": 2, "batch_size": 64, "learning_rate": 0.02}
INTEGERS = {"quantize": True, "weight_bits": 4, "activation_bits": 6}
AT_ONCE = {"qat_start": 0.0, "fine_tuning": 0.9}  # one program to compile
KINDS: dict[str, dict[str, Any]] = {
    "preprocessed integers": {
        **INTEGERS,
        **AT_ONCE,
        "qat": "ste",
        "imputation": "median",
        "missing_indicator": True,
        "transformation": "power",
        "normalization": "robust",
        "pca": 3,
    },
    "channels and learned steps": {
        **INTEGERS,
        **AT_ONCE,
        "channel_sparsity": 0.25,
        "channel_block": 3,
        "sparsity": 0.5,
        "qat": "lsq",
    },
    "groups of learned steps": {
        **INTEGERS,
        **AT_ONCE,
        "weight_bits": 2,
        "qat": "lsq",
        "weight_scales": "group",
        "group_size": 6,
    },
    "bfloat16": {"precision": "bfloat16", "sparsity": 0.3},
    "mixed": {"weight_bits@first": 3, "precision@last": "float8", "calibration": "percentile"},
    "pattern and global": {
        **INTEGERS,
        "depth": 2,
        "pruning_pattern@first": "1:2",
        "sparsity": 0.7,
        "pruning_scope": "global",
        "calibration": "mse",
    },
    "taught lottery": {
        "distill": True,
        "feature_weight": 1.0,
        "alpha": 0.5,
        "pruning": "lottery_ticket",
        "sparsity": 0.2,
        "rewind_step": 3,
    },
}


@dataclass(frozen=True, kw_only=True)
class Found:
    """A candidate's run, its only trial beside the baseline, and its bundle."""

    kind: str
    run: Run
    trial: Trial
    folder: Path

    @property
    def manifest(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text("utf-8"))
        return plain


@pytest.fixture(scope="module", params=KINDS)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Not to be changed."""
    if "imputation" in KINDS[request.param]:
        pytest.importorskip("palmerpenguins", reason="pip install 'paretax[datasets]'")
    out = tmp_path_factory.mktemp("kind")
    config: dict[str, Any] = {
        "task": "penguins" if "imputation" in KINDS[request.param] else "breast_cancer",
        "objectives": ["accuracy", "size"],
        "executor": "inline",
        "sampler": "random",
        "budget": {"trials": 2},
        "final_seeds": 1,
        "space": {**SMALL, **KINDS[request.param]},
    }
    if "distill" in config["space"]:
        config["teacher"] = {"candidate": {**SMALL, "width": 20}, "seed": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETAX_CACHE", str(out / "cache"))
        run = run_search(plan(parse_config(config, "the config")), out / "run")
        (trial,) = (t for t in run.trials if not t.baseline)
        assert trial.failure is None
        export_bundle(run, trial, "cpu", out / "bundle")
        return Found(kind=request.param, run=run, trial=trial, folder=out / "bundle")


def measured(trial: Trial, name: str) -> float:
    """The only measurement of an objective."""
    (value,) = (m.value for m in trial.measurements if m.objective == name)
    return value


def test_the_exported_program_scores_as_in_the_search(found: Found) -> None:
    assert found.trial.test is not None
    assert verify_bundle(found.folder).value == found.trial.test.value
    bundle, bench = load_bundle(found.folder), found.run.workbench()
    held = bench.data.validation
    outputs = bundle(held.inputs)
    assert bench.task.metric.compute(outputs, held.targets) == measured(found.trial, "accuracy")
    weights = load_weights(found.run.folder, found.trial)
    assert weights is not None
    simulated = AccuracyEvaluator(bench).outputs(found.trial.candidate, weights, held.inputs)
    scale = np.abs(simulated).max()
    np.testing.assert_allclose(outputs, simulated, rtol=1e-5, atol=1e-5 * scale)


def test_it_is_reproduced_exactly(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the user's cache; a teacher's outputs are in the run's folder."""
    monkeypatch.setenv("PARETAX_CACHE", str(found.folder.parent / "another cache"))
    again = reproduce(found.run, found.trial)
    assert again.equal
    kept = load_weights(found.run.folder, found.trial)
    assert kept is not None
    assert again.weights is not None
    assert again.weights.keys() == kept.keys()
    for name, array in kept.items():
        np.testing.assert_array_equal(again.weights[name], array)


def test_the_size_is_that_of_the_stored_arrays(found: Found) -> None:
    stored = load_file(found.folder / WEIGHTS)
    assert sum(a.nbytes for a in stored.values()) == measured(found.trial, "size")
    assert found.manifest["weights"]["bytes"] == measured(found.trial, "size")
    (size,) = (m for m in found.trial.measurements if m.objective == "size")
    assert size.provenance is Provenance.MODELLED
    assert (size.detail.get("pruned") == "globally") == (
        found.trial.candidate.get("pruning_scope") == "global"
    )


def test_its_weights_are_stored_as_the_candidate_says(found: Found) -> None:
    forms = found.manifest["weights"]["layouts"]
    shape = {n: tuple(form["shape"]) for n, form in forms.items()}
    numbers = {n: (form["number"], form["bits"]) for n, form in forms.items()}
    stored = {n: form["stored"] for n, form in forms.items()}
    first, second, last = "hidden/0/kernel", "hidden/1/kernel", "out/kernel"
    match found.kind:
        case "preprocessed integers":
            assert set(numbers.values()) == {("int", 4)}
            assert shape["hidden_0/kernel"][0] > 3  # components, and marks of missing values
            names = load_file(found.folder / WEIGHTS)
            assert sum(name.startswith("preprocessing/") for name in names) >= 4
        case "channels and learned steps":
            assert shape == {first: (30, 9), last: (9, 2)}
            assert stored == {first: 135, last: 9}
        case "groups of learned steps":
            assert set(numbers.values()) == {("int", 2)}
            arrays = load_bundle(found.folder).arrays
            assert arrays[f"{first}.scale"].shape == (5, 12)
            assert arrays[f"{last}.scale"].shape == (2, 2)
        case "bfloat16":
            assert set(numbers.values()) == {("bfloat16", 16)}
        case "mixed":
            assert numbers == {first: ("int", 3), last: ("float8", 8)}
        case "pattern and global":
            assert stored[first] == 30 * 12 / 2
            kept = 144 + 24 - round(0.7 * 144) - round(0.7 * 24)
            assert stored[second] + stored[last] == kept
        case "taught lottery":
            assert set(numbers.values()) == {("float32", 32)}
            assert stored == {first: round(0.8 * 360), last: round(0.9 * 24)}


def test_what_was_done_is_told_in_order(found: Found) -> None:
    steps = found.manifest["steps"]
    assert any(step.startswith("train epochs 1 to") for step in steps)
    card = (found.folder / "model_card.md").read_text("utf-8")
    for number, step in enumerate(steps, 1):
        assert f"{number}. {step}" in card
    words = {
        "preprocessed integers": "on the grid (ste)",
        "channels and learned steps": "3 of 12 channels of hidden/0/kernel",
        "groups of learned steps": "on the grid (lsq)",
        "bfloat16": "bfloat16",
        "mixed": "float8",
        "pattern and global": "1:2 at hidden/0/kernel",
        "taught lottery": "rewind to step 3",
    }
    assert words[found.kind] in "\n".join(steps)
    if found.kind == "taught lottery":
        assert "distilled from the model" in "\n".join(steps)
