"""The bytes of a deployed candidate."""

from __future__ import annotations

from typing import Any

import pytest

from paretax.evaluators import Provenance, Workbench
from paretax.evaluators.size import SizeEvaluator


@pytest.mark.parametrize(
    ("compressed", "expected"),
    [
        ({}, 4 * (120 + 4 + 8 + 2)),
        ({"quantize": False, "weight_bits": 2}, 4 * (120 + 4 + 8 + 2)),
        ({"quantize": True}, (120 + 8) + 4 * (4 + 2) + 4 * (4 + 2) + 2 * 4),
        ({"weight_bits": 4}, (60 + 4) + 4 * (4 + 2) + 4 * (4 + 2)),
        ({"activation_bits": 4}, 4 * (120 + 4 + 8 + 2) + 2 * 4),
        ({"sparsity": 0.5}, (15 + 4 * 60) + (1 + 4 * 4) + 4 * (4 + 2)),
    ],
    ids=str,
)
def test_bytes_by_hand(bench: Workbench, compressed: dict[str, Any], expected: int) -> None:
    """30 x 4 weights and 4 biases, then 4 x 2 and 2; a scale a channel, a step an input."""
    evaluation = SizeEvaluator(bench).evaluate({"width": 4, "depth": 1, **compressed}, 0)
    (measurement,) = evaluation.measurements
    assert measurement.value == expected
    assert measurement.detail == {"dense": 4 * (120 + 4 + 8 + 2)}
    assert (measurement.objective, measurement.unit) == ("size", "bytes")
    assert measurement.provenance is Provenance.MODELLED
    assert measurement.target is None
    assert evaluation.failure is None
    assert evaluation.weights is None


def test_the_dense_size_is_of_the_same_shape(bench: Workbench) -> None:
    for width in (4, 16):
        candidate = {"width": width, "depth": 1, "quantize": True, "sparsity": 0.9}
        (measurement,) = SizeEvaluator(bench).evaluate(candidate, 0).measurements
        dense = 4 * (30 * width + width + 2 * width + 2)
        assert measurement.detail["dense"] == dense
        assert measurement.value < dense


def test_what_is_trained_does_not_matter(bench: Workbench) -> None:
    evaluator = SizeEvaluator(bench)
    one = evaluator.evaluate({"width": 4, "learning_rate": 0.1}, 0)
    assert one == evaluator.evaluate({"width": 4, "learning_rate": 0.2, "epochs": 3}, 1)
    assert evaluator.provides == ("size",)


@pytest.mark.parametrize(
    "preprocessing",
    [
        {"normalization": "standard"},
        {"normalization": "robust", "pca": 5},
        {"outliers": "winsorize"},
    ],
    ids=str,
)
def test_a_dense_model_is_as_large_as_its_dense_size(
    bench: Workbench, preprocessing: dict[str, Any]
) -> None:
    """Both hold what preprocessing was fitted to."""
    plain = SizeEvaluator(bench).evaluate({"width": 4, "depth": 1}, 0).measurements[0].value
    for compressed in ({}, {"weight_bits": 4}):
        candidate = {"width": 4, "depth": 1, **preprocessing, **compressed}
        (measurement,) = SizeEvaluator(bench).evaluate(candidate, 0).measurements
        fitted = bench.features(candidate).pipeline
        assert fitted is not None
        held = sum(a.nbytes for a in fitted.arrays.values())
        assert held > 0
        features = bench.features(candidate).train.inputs.shape[1]
        assert measurement.detail["dense"] == plain - 4 * 4 * (30 - features) + held
        assert (measurement.value == measurement.detail["dense"]) == (not compressed)
