"""A user's own models, of flax.nnx alone and of flax.linen alone, go through every technique."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from paretax.results import Run, Trial, export_bundle, load_bundle, verify_bundle
from paretax.results.manifest import WEIGHTS
from paretax.search import parse_config, plan, run_search

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = {"width": 8, "heads": 2, "epochs": 2, "batch_size": 64, "learning_rate": 0.01}
PATTERNED = {  # the first convolution has one input channel, which no pattern divides
    "pruning_pattern": "2:4",
    "pruning_pattern@first": "unstructured",
    "sparsity@first": 0.25,
}
KINDS: dict[str, dict[str, Any]] = {
    "all together": {
        "normalization": "standard",
        "channel_sparsity": 0.5,
        "sparsity": 0.5,
        "pruning": "gradual",
        "quantize": True,
        "weight_bits": 4,
        "weight_bits@attention": 6,
        "qat": "ste",
        "distill": True,
        "temperature": 3.0,
        "feature_weight": 1.0,
    },
    "in turn": {
        "epochs": 6,
        "head_sparsity": 0.5,
        "quantize": True,
        "qat": "lsq",
        "calibration": "mse",
        "distill": True,
        "schedule": "prune_then_quantize_then_distill",
    },
    "pattern": {
        **PATTERNED,
        "weight_bits": 5,
        "activation_bits": 8,
        "calibration": "percentile",
        "weight_scales": "group",
        "group_size": 4,
    },
    "lottery": {
        "pruning": "lottery_ticket",
        "sparsity": 0.36,
        "rewind_step": 2,
        "precision": "float8",
    },
    "bfloat16": {
        "precision": "bfloat16",
        "sparsity": 0.8,
        "pruning_scope": "global",
        "outliers": "winsorize",
    },
}


def one_trial(task: str, kind: str, out: Path) -> tuple[Run, Trial]:
    space = {**SMALL, **KINDS[kind]}
    config: dict[str, Any] = {
        "task": f"own_models:{task}",
        "objectives": ["accuracy", "size"],
        "executor": "inline",
        "sampler": "random",
        "budget": {"trials": 2},
        "final_seeds": 1,
        "space": space,
    }
    if "distill" in space:
        config["teacher"] = {"candidate": {**SMALL, "width": 16}}
    run = run_search(plan(parse_config(config, "the config"), [EXAMPLES]), out / "run")
    (trial,) = (t for t in run.trials if not t.baseline)
    return run, trial


@pytest.mark.parametrize("task", ["nnx_task", "linen_task"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_technique(
    task: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETAX_CACHE", str(tmp_path / "cache"))
    run, trial = one_trial(task, kind, tmp_path)
    assert trial.failure is None
    assert trial.test is not None
    export_bundle(run, trial, "cpu", tmp_path / "bundle")
    assert verify_bundle(tmp_path / "bundle", [EXAMPLES]).value == trial.test.value
    bundle, bench = load_bundle(tmp_path / "bundle"), run.workbench()
    held = bench.data.validation
    (searched,) = (m.value for m in trial.measurements if m.objective == "accuracy")
    assert bench.task.metric.compute(bundle(held.inputs), held.targets) == searched
    stored = load_file(tmp_path / "bundle" / WEIGHTS)
    (size,) = (m for m in trial.measurements if m.objective == "size")
    assert sum(a.nbytes for a in stored.values()) == size.value
    if kind == "all together":
        deployed, prepared = bench.deployed(trial.candidate), bench.prepared(trial.candidate)
        assert {deployed.removed[g.name] / g.size for g in deployed.groups} == {0.5}
        shrunk = [
            n for n in prepared.params if deployed.params[n].shape != prepared.params[n].shape
        ]
        assert any("attention" in n.lower() for n in shrunk)  # features inside of heads
        assert any("conv" in n.lower() for n in shrunk)
        assert any("norm" in n.lower() for n in shrunk)
    if kind == "in turn":
        deployed = bench.deployed(trial.candidate)
        (group,) = deployed.groups
        assert (group.kind, group.size, deployed.removed[group.name]) == ("heads", 2, 1)
