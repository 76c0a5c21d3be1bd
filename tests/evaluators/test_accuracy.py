"""The metric of trained weights, through the arithmetic in which they are deployed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.evaluators import (
    AccuracyEvaluator,
    Deployed,
    Lesson,
    Provenance,
    Reason,
    Workbench,
)
from paretax.evaluators.accuracy import in_chunks, parts
from paretax.evaluators.compilation import deployed_program
from paretax.evaluators.lanes import DivergedError
from paretax.spaces.compression import compress, deployed_shapes
from paretax.tasks import Data, Split
from paretax.tasks.breast_cancer import task as breast_cancer

CANDIDATE = {"width": 8, "depth": 2, "epochs": 8, "batch_size": 64, "learning_rate": 0.02}

COMPRESSED: list[dict[str, Any]] = [
    {},
    {"sparsity": 0.5},
    {"quantize": True},
    {"quantize": True, "weight_bits": 2, "activation_bits": 4, "sparsity": 0.3},
    {"quantize": True, "weight_bits": 4, "activation_bits": 8},
    {"weight_bits": 3},
    {"activation_bits": 5, "sparsity": 0.8},
]


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """An evaluator with trained weights, and what its metric was given."""

    bench: Workbench
    evaluator: AccuracyEvaluator
    weights: dict[str, np.ndarray]
    seen: list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def scorer(recording: Callable[..., Any]) -> Scorer:
    """Trained on the breast cancer task."""
    bench, seen = recording(breast_cancer)
    evaluator = AccuracyEvaluator(bench)
    evaluation = evaluator.evaluate(CANDIDATE, 0)
    assert evaluation.weights is not None
    return Scorer(bench=bench, evaluator=evaluator, weights=dict(evaluation.weights), seen=seen)


def test_a_float_model_scores_as_it_predicts(scorer: Scorer) -> None:
    held = scorer.bench.data.validation
    score = scorer.evaluator.score(CANDIDATE, scorer.weights, held)
    outputs, targets = scorer.seen[-1]
    predict = scorer.bench.prepared(CANDIDATE).model.predict
    params = {name: jnp.asarray(array) for name, array in scorer.weights.items()}
    naive = np.asarray(predict(params, {}, jnp.asarray(held.inputs)))
    np.testing.assert_allclose(outputs, naive, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(targets, held.targets)
    assert score == np.mean([row.argmax() == t for row, t in zip(naive, targets, strict=True)])
    assert score > 0.9


@pytest.mark.parametrize("depth", [1, 2])
def test_one_evaluator_scores_models_of_different_shapes(scorer: Scorer, depth: int) -> None:
    """Their compiled programs are kept apart."""
    candidate = {"width": 3, "depth": depth}
    prepared = scorer.bench.prepared(candidate)
    rng = np.random.default_rng(depth)
    weights = {n: rng.normal(size=p.shape).astype(p.dtype) for n, p in prepared.params.items()}
    held = scorer.bench.data.validation
    scorer.evaluator.score(candidate, weights, held)
    params = {name: jnp.asarray(array) for name, array in weights.items()}
    naive = prepared.model.predict(params, {}, jnp.asarray(held.inputs))
    np.testing.assert_allclose(scorer.seen[-1][0], naive, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compressed", COMPRESSED, ids=str)
def test_the_deployed_program_scores_the_same(scorer: Scorer, compressed: dict[str, Any]) -> None:
    candidate = {**CANDIDATE, **compressed}
    bench, evaluator = scorer.bench, scorer.evaluator
    weights = pruned(bench.deployed(candidate), scorer.weights)
    score = evaluator.score(candidate, weights, bench.data.test)
    simulated, _ = scorer.seen[-1]

    deployed = through_the_program(bench, evaluator, candidate, weights, bench.data.test.inputs)
    assert bench.task.metric.compute(deployed, bench.data.test.targets) == score
    treatments = bench.deployed(candidate).recipe.treatments.values()
    if all(t.weights_quantized and t.inputs_quantized for t in treatments):
        np.testing.assert_array_equal(deployed, simulated)
    else:
        np.testing.assert_allclose(deployed, simulated, rtol=1e-5, atol=1e-5)


def pruned(deployed: Deployed, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Trained weights with the smallest ones gone, as a recipe says."""
    found = dict(weights)
    for name, site in deployed.sites.items():
        flat = weights[name].ravel().copy()
        count = deployed.recipe.treatments[name].count(site.size)
        flat[np.argsort(np.abs(flat), kind="stable")[:count]] = 0.0
        found[name] = flat.reshape(weights[name].shape)
    return found


def through_the_program(
    bench: Workbench,
    evaluator: AccuracyEvaluator,
    candidate: Mapping[str, Any],
    weights: Mapping[str, Any],
    inputs: np.ndarray,
) -> np.ndarray:
    """What the program that is measured and exported computes."""
    deployed = bench.deployed(candidate)
    params, state, _ = parts(deployed, weights)
    grid = evaluator.grid(deployed, weights)
    arrays = compress(deployed.recipe, deployed.sites, params, state, grid)
    shapes = deployed_shapes(deployed.recipe, deployed.sites, deployed.params, deployed.state)
    assert {n: (a.shape, a.dtype) for n, a in arrays.items()} == {
        n: (s.shape, s.dtype) for n, s in shapes.items()
    }
    return np.asarray(deployed_program(deployed)(arrays, inputs))


def test_compression_changes_the_outputs(scorer: Scorer) -> None:
    """The control of the test above: each recipe has outputs of its own."""
    seen = []
    for compressed in COMPRESSED:
        candidate = {**CANDIDATE, **compressed}
        weights = pruned(scorer.bench.deployed(candidate), scorer.weights)
        scorer.evaluator.score(candidate, weights, scorer.bench.data.test)
        seen.append(scorer.seen[-1][0])
    for i, one in enumerate(seen):
        for other in seen[:i]:
            assert not np.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_the_grid_is_of_the_training_examples(scorer: Scorer) -> None:
    deployed = scorer.bench.deployed({**CANDIDATE, "quantize": True})
    grid = scorer.evaluator.grid(deployed, scorer.weights)
    assert grid.keys() == deployed.sites.keys()
    first = next(iter(grid))
    expected = np.abs(scorer.bench.data.train.inputs).max()  # there are 341, fewer than 512
    reach = float(grid[first]["input_step"] * grid[first]["input_limit"])
    assert reach == pytest.approx(float(expected))


def bench_of(data: Any) -> Workbench:
    """The breast cancer task with other arrays, which are taken as they are."""
    bench = Workbench(breast_cancer)
    bench.__dict__["data"] = data  # where `cached_property` keeps them
    return bench


class _Sealed:
    """Splits of which one must not be read."""

    def __init__(self, data: Data) -> None:
        self.train, self.validation = data.train, data.validation

    @property
    def test(self) -> Split:
        raise AssertionError("the test split was read")


def test_the_search_does_not_read_the_test_split(bench: Workbench) -> None:
    candidate = {**CANDIDATE, "width": 2, "epochs": 1, "quantize": True}
    evaluator = AccuracyEvaluator(bench_of(_Sealed(bench.data)))
    evaluation = evaluator.evaluate(candidate, 0)
    assert evaluation.failure is None
    assert evaluation.weights is not None
    with pytest.raises(AssertionError, match="the test split was read"):
        evaluator.test(candidate, evaluation.weights)


def test_an_evaluation_scores_the_validation_split_and_a_test_the_test_split(
    scorer: Scorer,
) -> None:
    data = scorer.bench.data
    evaluation = scorer.evaluator.evaluate(CANDIDATE, 0)
    (measurement,) = evaluation.measurements
    np.testing.assert_array_equal(scorer.seen[-1][1], data.validation.targets)
    assert measurement.objective == "accuracy"
    assert measurement.provenance is Provenance.MEASURED
    steps = ["train epochs 1 to 8"]
    spent = measurement.detail["seconds"]
    assert measurement.detail == {"split": "validation", "steps": steps, "seconds": spent}
    assert 0 <= min(spent.values()) <= sum(spent.values()) <= measurement.seconds * 1.01
    assert measurement.value == scorer.evaluator.score(CANDIDATE, scorer.weights, data.validation)
    assert (measurement.target, measurement.spread, measurement.unit) == (None, None, "")

    before = len(scorer.seen)
    tested = scorer.evaluator.test(CANDIDATE, scorer.weights)
    first, *resampled = scorer.seen[before:]  # those of its sampling error are drawn from it
    np.testing.assert_array_equal(first[1], data.test.targets)
    assert resampled
    assert {len(outputs) for outputs, _ in resampled} == {len(data.test)}
    assert tested.detail == {"split": "test", "standard_error": tested.detail["standard_error"]}
    assert tested.detail["standard_error"] > 0
    assert tested.value == scorer.evaluator.score(CANDIDATE, scorer.weights, data.test)


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_weights_are_those_of_the_training_pruned_and_not_quantised(
    scorer: Scorer, sparsity: float
) -> None:
    compressed = {**CANDIDATE, "quantize": True, "weight_bits": 2}
    compressed |= {"sparsity": sparsity, "fine_tuning": 0.0}
    evaluation = scorer.evaluator.evaluate(compressed, 0)
    assert evaluation.weights is not None
    assert evaluation.weights.keys() == scorer.weights.keys()
    expected = pruned(scorer.bench.deployed(compressed), scorer.weights)
    for name, array in evaluation.weights.items():
        assert type(array) is np.ndarray
        np.testing.assert_array_equal(array, expected[name])


def test_a_divergence_is_a_failure_with_its_reason(scorer: Scorer) -> None:
    wild = {**CANDIDATE, "learning_rate": 1e30}
    evaluation = scorer.evaluator.evaluate(wild, 0)
    assert evaluation.measurements == ()
    assert evaluation.weights is None
    assert evaluation.failure is not None
    assert evaluation.failure.reason is Reason.DIVERGED
    assert "the training loss is" in evaluation.failure.message


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_not_finite_have_no_score(scorer: Scorer, bad: float) -> None:
    last = max(scorer.weights)  # the bias or kernel of the last layer
    broken = {**scorer.weights, last: np.full_like(scorer.weights[last], bad)}
    with pytest.raises(DivergedError, match="outputs are not numbers"):
        scorer.evaluator.score(CANDIDATE, broken, scorer.bench.data.validation)


def test_what_the_evaluator_says_of_itself(bench: Workbench) -> None:
    evaluator = AccuracyEvaluator(bench)
    assert evaluator.provides == ("accuracy",)


# Teachers -----------------------------------------------------------------------------------------

DISTILLED = {**CANDIDATE, "epochs": 2, "distill": True}


def lesson_of(bench: Workbench, inner: bool) -> Lesson:
    labels = bench.data.train.targets
    return Lesson(
        key="sure",
        teacher="an oracle",
        outputs=np.asarray(8.0 * np.eye(2, dtype=np.float32)[labels]),
        inner=np.eye(2, dtype=np.float32)[labels] if inner else None,
        score=1.0,
    )


def test_distilling_needs_a_teacher(bench: Workbench) -> None:
    with pytest.raises(UsageError, match="distill: true needs a teacher: add `teacher`"):
        AccuracyEvaluator(bench).evaluate(DISTILLED, 0)
    blind = AccuracyEvaluator(bench, lesson_of(bench, inner=False))
    assert blind.evaluate(DISTILLED, 0).failure is None
    with pytest.raises(UsageError, match=r"feature_weight needs a teacher .* an oracle is a comp"):
        blind.evaluate({**DISTILLED, "feature_weight": 0.5}, 0)
    plain = {**DISTILLED, "distill": False, "feature_weight": 0.5}  # then no number of it counts
    assert blind.evaluate(plain, 0).failure is None


def test_a_teacher_is_heard(bench: Workbench) -> None:
    evaluator = AccuracyEvaluator(bench, lesson_of(bench, inner=True))
    alone = evaluator.evaluate({**DISTILLED, "distill": False}, 0)
    evaluation = evaluator.evaluate({**DISTILLED, "alpha": 0.0, "feature_weight": 5.0}, 0)
    (measurement,) = evaluation.measurements
    assert measurement.detail["steps"] == ["train epochs 1 to 2: distilled from an oracle"]
    assert evaluation.weights is not None
    assert alone.weights is not None
    assert evaluation.weights.keys() == alone.weights.keys()
    assert any(not np.array_equal(evaluation.weights[n], a) for n, a in alone.weights.items())


# Compilations -------------------------------------------------------------------------------------

FAMILIES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "training": (
        {},
        [
            {"learning_rate": 0.005},
            {"weight_decay": 0.1},
            {"learning_rate_decay": "none"},
            {"epochs": 3},
        ],
    ),
    "at once": (
        {"sparsity": 0.5, "fine_tuning": 0.5},
        [{"sparsity": 0.9}, {"sparsity@last": 0.2}, {"epochs": 4}],
    ),
    "gradual": (
        {"sparsity": 0.5, "pruning": "gradual", "epochs": 4, "pruning_scope": "global"},
        [{"sparsity": 0.9}, {"pruning_start": 0.3}, {"fine_tuning": 0.1}],
    ),
    "quantised": (
        {"quantize": True},
        [
            {"weight_bits": 2},
            {"activation_bits": 3},
            {"weight_bits@last": 5},
            {"weight_bits": 4, "activation_bits": 6, "learning_rate": 0.01},
        ],
    ),
    "calibrated": (
        {"quantize": True, "calibration": "percentile"},
        [{"weight_bits": 2}, {"calibration_percentile": 98.0}],
    ),
    "learned": (
        {"quantize": True, "qat": "lsq", "sparsity": 0.5, "fine_tuning": 0.5},
        [{"weight_bits": 2, "activation_bits": 3}, {"sparsity": 0.7}, {"learning_rate": 0.01}],
    ),
    "capped": (
        {"outliers": "winsorize", "normalization": "standard"},
        [{"winsor_quantile": 0.1}, {"winsor_quantile": 0.2}],
    ),
    "smoothed": (
        {"label_smoothing": 0.1, "gradient_clip": 1.0},
        [{"label_smoothing": 0.3}, {"gradient_clip": 0.1}],
    ),
    "lottery": (
        {"pruning": "lottery_ticket", "sparsity": 0.6, "learning_rate": 0.05},
        [{"sparsity": 0.2}, {"lottery_rate": 0.5}, {"ticket": "fresh"}],
    ),
    "distilled": (
        {"distill": True, "feature_weight": 1.0},
        [{"temperature": 1.0}, {"alpha": 0.2}, {"feature_weight": 3.0}],
    ),
}


@pytest.fixture(scope="module")
def evaluator(bench: Workbench) -> AccuracyEvaluator:
    """Has a teacher; families share what they can."""
    return AccuracyEvaluator(bench, lesson_of(bench, inner=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_do_not_compile_again(
    evaluator: AccuracyEvaluator, compiled: list[str], family: str
) -> None:
    """Neither the training, nor the masks, nor the grid, nor the scoring."""
    base, changes = FAMILIES[family]
    base = {"width": 6, "epochs": 2, "batch_size": 64, **base}
    first = evaluator.evaluate(base, 0).weights
    assert compiled or family != "training"  # the control: compilations are seen
    assert first is not None
    for change in changes:
        compiled.clear()
        weights = evaluator.evaluate({**base, **change}, 0).weights
        assert compiled == []
        assert weights is not None
        if "bits" not in str(change) and "percentile" not in str(change):
            assert any(not np.array_equal(first[name], weights[name]) for name in first)
    compiled.clear()
    evaluator.evaluate(base, 1)  # another seed
    assert compiled == []


def test_another_model_compiles_again(evaluator: AccuracyEvaluator, compiled: list[str]) -> None:
    evaluator.evaluate({"width": 7, "epochs": 1}, 0)
    assert compiled
    compiled.clear()
    evaluator.evaluate({"width": 7, "epochs": 1}, 1)
    assert not compiled


@pytest.mark.parametrize("count", [0, 1, 2, 511, 512, 513, 1023, 1024, 1025])
def test_chunks_put_together_are_the_whole(count: int) -> None:
    inputs = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    sizes = []

    def predict(chunk: np.ndarray) -> np.ndarray:
        sizes.append(len(chunk))
        return 2 * chunk

    found = in_chunks(predict, inputs)
    assert found.shape == (count, 3)
    np.testing.assert_array_equal(found, 2 * inputs)
    assert len(set(sizes)) == 1  # one size, so one compilation
    assert len(sizes) == max(1, -(-count // 512))
    assert sizes[0] == max(1, min(count, 512))
