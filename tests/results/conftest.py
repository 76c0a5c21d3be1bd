"""Two runs: one written by hand into a journal, and a small real one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paretax.results import Journal, Run
from paretax.results.journal import FORMAT
from paretax.search import parse_config, plan, run_search

OBJECTIVES = [
    {
        "name": "accuracy",
        "unit": "",
        "direction": "maximize",
        "target": None,
        "known_before_training": False,
        "limit": 0.5,
    },
    {
        "name": "latency",
        "unit": "us",
        "direction": "minimize",
        "target": "cpu",
        "known_before_training": True,
        "limit": None,
    },
    {
        "name": "size",
        "unit": "bytes",
        "direction": "minimize",
        "target": None,
        "known_before_training": True,
        "limit": 1000.0,
    },
]

HEADER: dict[str, Any] = {
    "event": "run",
    "format": FORMAT,
    "config": {
        "task": "breast_cancer",
        "space": {"width": 8, "quantize": {}, "weight_bits": {}, "optimizer": "sgd"},
        "targets": [{"name": "cpu", "batch": 4}],
    },
    "objectives": OBJECTIVES,
    "search_path": [],
    "machine": {"processor": "a processor"},
    "versions": {"jax": "1.2.3"},
}


def size(value: float) -> dict[str, Any]:
    return {
        "objective": "size",
        "value": value,
        "unit": "bytes",
        "provenance": "modelled",
        "seconds": 0.0,
        "detail": {"dense": 800},
    }


def latency(value: float) -> dict[str, Any]:
    return {
        "objective": "latency",
        "value": value,
        "unit": "us",
        "provenance": "measured",
        "target": "cpu",
        "spread": 0.5,
        "seconds": 0.25,
        "detail": {"batch": 4, "program": "0123"},
    }


def accuracy(value: float, split: str = "validation") -> dict[str, Any]:
    return {
        "objective": "accuracy",
        "value": value,
        "unit": "",
        "provenance": "measured",
        "seconds": 1.5,
        "detail": {"split": split},
    }


def failure(reason: str, message: str, violation: float = 0.0) -> dict[str, Any]:
    return {"reason": reason, "message": message, "violation": violation}


CANDIDATES: list[dict[str, Any]] = [
    {"width": 8, "quantize": False, "optimizer": "sgd"},
    {"width": 8, "quantize": True, "weight_bits": 4, "optimizer": "sgd"},
    {"width": 16, "quantize": False, "optimizer": "sgd"},
    {"width": 64, "quantize": False, "optimizer": "sgd"},
    {"width": 16, "quantize": True, "weight_bits": 2, "optimizer": "sgd"},
    {"width": 4, "quantize": True, "weight_bits": 3, "optimizer": "sgd"},
    {"width": 12, "quantize": False, "optimizer": "sgd"},
]


def asked(batch: int, numbers: range) -> dict[str, Any]:
    trials: list[dict[str, Any]]
    trials = [{"trial": n, "candidate": CANDIDATES[n], "seed": 100 + n} for n in numbers]
    if numbers[0] == 0:
        trials[0]["baseline"] = True
    return {"event": "asked", "batch": batch, "trials": trials}


def scored(trial: int, *found: dict[str, Any], **content: Any) -> dict[str, Any]:
    return {"event": "scored", "trial": trial, "measurements": list(found), **content}


def trained(trial: int, *found: dict[str, Any], **content: Any) -> dict[str, Any]:
    return {"event": "trained", "trial": trial, "measurements": list(found), **content}


EVENTS: list[dict[str, Any]] = [
    HEADER,
    asked(0, range(5)),
    scored(0, size(400.0), latency(20.0)),
    scored(1, size(100.0), latency(25.0)),
    scored(2, size(800.0), latency(30.0)),
    scored(3, size(1600.0), latency(40.0), failure=failure("limit_exceeded", "size", 0.6)),
    scored(4, size(200.0), latency(30.0)),
    trained(0, accuracy(0.9)),
    trained(1, accuracy(0.8)),
    trained(2, accuracy(0.95)),
    trained(4, failure=failure("diverged", "the training loss is nan in epoch 2 of 5")),
    {
        "event": "reference",
        "target": "cpu",
        "worst": [-0.785, 31.0, 870.0],
        "best": [-0.95, 20.0, 100.0],
    },
    asked(1, range(5, 7)),
    scored(5, size(50.0), latency(26.0)),
    scored(6, size(600.0), latency(28.0)),
    trained(5, accuracy(0.4), failure=failure("limit_exceeded", "accuracy", 0.2)),
    trained(6, accuracy(0.85)),  # trial 0 dominates it
    {"event": "tested", "trial": 0, "measurement": accuracy(0.88, "test")},
    {"event": "tested", "trial": 2, "measurement": accuracy(0.91, "test")},
    {"event": "ended"},
]
"""Trials 0 (the baseline), 1 and 2 are on the front; 3 and 5 break a limit, 4 diverges."""

WriteRun = Callable[[list[dict[str, Any]]], Run]


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes events as a run, and opens it."""

    def write(events: list[dict[str, Any]]) -> Run:
        with Journal(tmp_path / "run") as journal:
            for event in events:
                journal.append(event)
        return Run.open(tmp_path / "run")

    return write


@pytest.fixture
def events() -> list[dict[str, Any]]:
    """The run's events: trials 0, 1 and 2 on the front, 3 and 5 beyond a limit, 4 diverged."""
    return copy.deepcopy(EVENTS)


@pytest.fixture
def run(write_run: WriteRun, events: list[dict[str, Any]]) -> Run:
    """The run of `events`."""
    return write_run(events)


# A real run ---------------------------------------------------------------------------------------

CONFIG = {
    "task": "breast_cancer",
    "objectives": ["accuracy", "latency", "size"],
    "executor": "inline",
    "sampler": {"name": "grid", "options": {"points": 3}},
    "budget": {"trials": 7},
    "batch": 7,
    "space": {
        "width": 3,
        "sparsity": {"type": "ordinal", "choices": [0.0, 0.6, 0.999]},
        "quantize": {"type": "categorical", "choices": [True, False]},
        "weight_bits": {"type": "ordinal", "choices": [3], "when": {"quantize": True}},
        "depth": 1,
        "epochs": 3,
        "batch_size": 64,
        "learning_rate": 0.02,
    },
}


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The baseline and six trials on breast cancer, searched in this process. Not to be changed."""
    out = tmp_path_factory.mktemp("searched") / "run"
    return run_search(plan(parse_config(CONFIG, "the config")), out)
