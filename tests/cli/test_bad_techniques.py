"""Misuse of a technique: one clear error before any training, exit 2, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export
from safetensors.numpy import save_file

from paretax.evaluators import Workbench
from paretax.results import Run
from paretax.tasks import load_task

STUDENT = {"distill": True}
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "1-bit weights": ({"space": {"weight_bits": 1}}, ["weight_bits", "from 2 to 8", "1"]),
    "9-bit inputs at a site": (
        {"space": {"activation_bits@last": 9}},
        ["activation_bits@last", "from 2 to 8", "9"],
    ),
    "N:M that does not divide": (
        {"space": {"pruning_pattern": "2:4"}},
        ["multiple of 4", "'hidden/0/kernel'", "30", "pruning_pattern@hidden/0"],
    ),
    "N:M with channels removed one by one": (
        {
            "space": {
                "width": 16,
                "channel_sparsity": 0.5,
                "pruning_pattern@out": "2:4",
            }
        },
        ["2:4", "'out/kernel'", "channel_block", "multiple of 4"],
    ),
    "no N:M": ({"space": {"pruning_pattern": "4:4"}}, ["pruning_pattern", "N:M", "'4:4'"]),
    "a rule that matches no site": (
        {"space": {"weight_bits@attention": 4}},
        ["'weight_bits@attention'", "matches none", "hidden/0/kernel", "out/kernel"],
    ),
    "a broken regular expression": (
        {"space": {"weight_bits@hidden/(": 4}},
        ["'hidden/('", "regular expression"],
    ),
    "a rule for a setting of the whole": (
        {"space": {"epochs@first": 4}},
        ["'epochs@first'", "'epochs'", "weight_bits"],
    ),
    "PCA to more components than features": (
        {"space": {"pca": 31}},
        ["pca", "31", "30"],
    ),
    "more features than there are": (
        {"space": {"feature_selection": 40}},
        ["feature_selection", "40", "30"],
    ),
    "images where a table is needed": (
        {"task": "mnist5k", "space": {"imputation": "knn"}},
        ["imputation", "knn"],
    ),
    "missing values without imputation": (
        {"task": "penguins", "space": {}},
        ["missing values", "imputation", "knn"],
    ),
    "missing values that may be left": (
        {
            "task": "penguins",
            "space": {"imputation": {"type": "categorical", "choices": ["none", "mean"]}},
        },
        ["missing values", "imputation"],
    ),
    "pruning that would empty a layer": (
        {"space": {"width": 4, "channel_sparsity": 0.9}},
        ["channel_sparsity 0.9", "would empty", "'hidden/0/kernel'", "4"],
    ),
    "heads of a model without attention": (
        {"space": {"head_sparsity": 0.5}},
        ["head_sparsity", "heads", "none"],
    ),
    "a block that divides nothing": (
        {"space": {"width": 4, "channel_sparsity": 0.5, "channel_block": 3}},
        ["channel_block", "3", "hidden/0/kernel 4"],
    ),
    "a global ticket": (
        {"space": {"sparsity": 0.5, "pruning": "lottery_ticket", "pruning_scope": "global"}},
        ["lottery ticket", "layer"],
    ),
    "a rewinding beyond the end": (
        {
            "space": {
                "epochs": 3,
                "sparsity": 0.5,
                "pruning": "lottery_ticket",
                "rewind_step": 1000,
            }
        },
        ["rewind_step", "of the 6 steps", "1000"],
    ),
    "too few epochs for the stages": (
        {
            "space": {
                "epochs": 3,
                "sparsity": 0.5,
                "quantize": True,
                "qat": "ste",
                "schedule": "prune_then_quantize_then_distill",
            }
        },
        ["2 stages", "at least 4 epochs", "3"],
    ),
    "features of a program": (
        {
            "space": STUDENT | {"feature_weight": 1.0},
            "teacher": {"program": "config.yaml"},
        },
        ["feature_weight", "layers can be seen"],
    ),
    "a student without a teacher": ({"space": STUDENT}, ["distill", "teacher"]),
    "a teacher without students": (
        {"teacher": {"candidate": {"width": 8}}},
        ["teacher", "distill: true"],
    ),
    "a teacher that is nothing": ({"space": STUDENT, "teacher": {}}, ["candidate", "program"]),
    "a teacher that is two things": (
        {"space": STUDENT, "teacher": {"candidate": {"width": 8}, "program": "x"}},
        ["program", "candidate", "leave one out"],
    ),
    "a teacher that is not there": (
        {"space": STUDENT, "teacher": {"program": "nowhere.bin"}},
        ["'nowhere.bin'", "not there"],
    ),
    "a teacher of an unknown parameter": (
        {"space": STUDENT, "teacher": {"candidate": {"widht": 8}}},
        ["'widht'", "Did you mean 'width'"],
    ),
    "a distilled teacher": (
        {"space": STUDENT, "teacher": {"candidate": {"distill": True}}},
        ["teacher", "distilled itself"],
    ),
    "an unknown key of a teacher": (
        {"space": STUDENT, "teacher": {"candidat": {"width": 8}}},
        ["'candidat'", "Did you mean 'candidate'"],
    ),
    "a schedule of an unknown order": (
        {"space": {"schedule": "distill_then_prune"}},
        ["schedule", "together", "prune_then_quantize_then_distill"],
    ),
    "a temperature of 0": ({"space": {"temperature": 0.0}}, ["temperature", "positive"]),
}


def spoil(config: dict[str, Any], case: dict[str, Any]) -> dict[str, Any]:
    space = config["space"] | case.get("space", {})
    if "task" in case:
        space = {"epochs": 1} | case["space"]
    return config | case | {"space": space}


@pytest.mark.parametrize("case", CASES)
def test_misuse_is_refused_before_any_training(
    case: str,
    config: dict[str, Any],
    config_file: Callable[[dict[str, Any]], Path],
    command: Any,
    tmp_path: Path,
) -> None:
    spoilt, words = CASES[case]
    outcome = command("search", config_file(spoil(config, spoilt)), "--out", tmp_path / "run")
    assert outcome.code == 2
    assert outcome.out == ""
    for word in words:
        assert word in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def exported(path: Path, classes: int, features: int = 30) -> Path:
    (batch,) = jax_export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, features), jnp.float32)
    program = jax_export.export(jax.jit(lambda x: x[:, :classes]))(shape)
    path.write_bytes(program.serialize())
    return path


def test_a_teacher_of_other_classes_is_refused(
    config: dict[str, Any],
    config_file: Callable[[dict[str, Any]], Path],
    command: Any,
    tmp_path: Path,
) -> None:
    exported(tmp_path / "teacher.bin", classes=3)
    taught = config | {"space": config["space"] | STUDENT, "teacher": {"program": "teacher.bin"}}
    outcome = command("search", config_file(taught), "--out", tmp_path / "run")
    assert outcome.code == 2
    for word in ("(2,)", "(3,)", "teacher.bin", "classes"):
        assert word in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_model_is_refused(
    config: dict[str, Any],
    config_file: Callable[[dict[str, Any]], Path],
    command: Any,
    tmp_path: Path,
) -> None:
    shapes = Workbench(load_task("breast_cancer", [])).prepared({"width": 8}).params
    arrays = {name: np.zeros(shape.shape, np.float32) for name, shape in shapes.items()}
    save_file(arrays, tmp_path / "teacher.safetensors")
    teacher = {"candidate": {"width": 16}, "checkpoint": "teacher.safetensors"}
    taught = config | {"space": config["space"] | STUDENT, "teacher": teacher}
    outcome = command("search", config_file(taught), "--out", tmp_path / "run")
    assert outcome.code == 2
    for word in ("teacher.safetensors", "(16,)", "(8,)", "hidden/0/bias"):
        assert word in outcome.err


def test_a_program_may_teach(
    config: dict[str, Any],
    config_file: Callable[[dict[str, Any]], Path],
    command: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PARETAX_CACHE", str(tmp_path / "cache"))
    exported(tmp_path / "teacher.bin", classes=2)
    space = config["space"] | STUDENT | {"epochs": 3}
    taught = config | {"space": space, "teacher": {"program": "teacher.bin"}}
    taught["budget"] = {"trials": 2}
    outcome = command("search", config_file(taught), "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    run = Run.open(tmp_path / "run")
    (metric,) = (m for m in run.trials[1].measurements if m.objective == "accuracy")
    assert "distilled from the program teacher.bin" in "".join(metric.detail["steps"])


def test_the_leaderboard_of_a_global_sparsity(
    config: dict[str, Any],
    config_file: Callable[[dict[str, Any]], Path],
    command: Any,
    tmp_path: Path,
) -> None:
    space = config["space"] | {"sparsity": 0.8, "pruning_scope": "global", "epochs": 3}
    sparse = config | {"space": space, "objectives": ["accuracy"], "budget": {"trials": 2}}
    outcome = command("search", config_file(sparse), "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    board = command("leaderboard", tmp_path / "run")
    assert board.code == 0, board.err
    assert "smaller" in board.out
