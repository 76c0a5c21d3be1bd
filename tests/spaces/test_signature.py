"""Signatures: candidates that differ in numbers alone share one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from paretax.spaces import SETTINGS, Space, parse_space, signature, with_signature

BY_NAME = {setting.name: setting for setting in SETTINGS}
BASE: dict[str, Any] = {
    "width": 64,
    "dropout": 0.1,
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "batch_size": 64,
    "epochs": 20,
    "sparsity": 0.5,
    "quantize": True,
    "qat": "none",
    "weight_bits": 4,
    "weight_bits@last": 8,
}


def of(**change: Any) -> str:
    return signature({**BASE, **change}, BY_NAME)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.5},
        {"epochs": 7},
        {"sparsity": 0.1},
        {"weight_bits": 2},
        {"weight_bits@last": 3},
        {"dropout": 0.3},
        {"quantize": False},
        {"calibration": "mse"},
    ],
    ids=str,
)
def test_numbers_do_not_count(change: dict[str, Any]) -> None:
    assert of(**change) == of()


@pytest.mark.parametrize(
    "change",
    [
        {"width": 32},
        {"optimizer": "sgd"},
        {"batch_size": 128},
        {"sparsity": 0.0},
        {"qat": "ste"},
        {"qat": "lsq"},
        {"distill": True},
        {"label_smoothing": 0},
    ],
    ids=str,
)
def test_what_changes_a_graph_counts(change: dict[str, Any]) -> None:
    assert of(**change) != of()


def space() -> Space:
    return parse_space(
        {
            "width": {"type": "ordinal", "choices": [16, 32]},
            "optimizer": {"type": "categorical", "choices": ["adamw", "sgd"]},
            "learning_rate": {"type": "float", "low": 0.001, "high": 0.1},
            "sparsity": {"type": "float", "low": 0.0, "high": 0.9, "step": 0.3},
            "quantize": {"type": "categorical", "choices": [False, True]},
            "weight_bits": {"type": "int", "low": 2, "high": 8, "when": {"quantize": True}},
        },
        [{"optimizer": "adamw", "learning_rate": {"min": 0.05}}],
    )


def test_a_candidate_takes_a_signature_and_keeps_its_numbers() -> None:
    found, rng = space(), np.random.default_rng(0)
    forbidden = 0
    for _ in range(300):
        one, model = found.sample(rng), found.sample(rng)
        moved = with_signature(found, one, model, BY_NAME, rng)
        if moved is None:  # the model's optimiser with the other's rate
            assert model["optimizer"] == "adamw"
            assert float(one["learning_rate"]) >= 0.05
            forbidden += 1
            continue
        assert found.candidate(dict(moved)) == moved
        assert signature(moved, BY_NAME) == signature(model, BY_NAME)
        assert moved["learning_rate"] == one["learning_rate"]
        if one["sparsity"] and model["sparsity"]:
            assert moved["sparsity"] == one["sparsity"]
        if "weight_bits" in one and "weight_bits" in model:
            assert moved["weight_bits"] == one["weight_bits"]
    assert forbidden > 0
