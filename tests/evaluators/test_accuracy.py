"""The metric of trained weights, through the arithmetic in which they are deployed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.evaluators import AccuracyEvaluator, Provenance, Reason, Workbench
from paretax.evaluators.accuracy import in_chunks, parts
from paretax.evaluators.compilation import deployed_program
from paretax.evaluators.training import DivergedError
from paretax.spaces.compression import Recipe, compress
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
    prepared, recipe = bench.prepared(candidate), Recipe.of(candidate)
    score = evaluator.score(candidate, scorer.weights, bench.data.test)
    simulated, _ = scorer.seen[-1]

    params, state = parts(prepared, scorer.weights)
    ranges = evaluator.ranges(prepared, recipe, params, state)
    arrays = compress(recipe, prepared.sites, params, state, ranges)
    program = deployed_program(prepared, recipe)
    deployed = np.asarray(program(arrays, bench.data.test.inputs))
    assert bench.task.metric.compute(deployed, bench.data.test.targets) == score
    if recipe.weights_quantized and recipe.inputs_quantized:
        np.testing.assert_array_equal(deployed, simulated)
    else:
        np.testing.assert_allclose(deployed, simulated, rtol=1e-5, atol=1e-5)


def test_compression_changes_the_outputs(scorer: Scorer) -> None:
    """The control of the test above: each recipe has outputs of its own."""
    seen = []
    for compressed in COMPRESSED:
        candidate = {**CANDIDATE, **compressed}
        scorer.evaluator.score(candidate, scorer.weights, scorer.bench.data.test)
        seen.append(scorer.seen[-1][0])
    for i, one in enumerate(seen):
        for other in seen[:i]:
            assert not np.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_ranges_are_those_of_the_first_512_training_examples(scorer: Scorer) -> None:
    prepared, recipe = scorer.bench.prepared(CANDIDATE), Recipe.of(CANDIDATE)
    params, state = parts(prepared, scorer.weights)
    ranges = scorer.evaluator.ranges(prepared, recipe, params, state)
    assert ranges.keys() == prepared.sites.keys()
    first = next(iter(prepared.sites))
    expected = np.abs(scorer.bench.data.train.inputs[:512]).max()  # there are 341
    assert float(ranges[first]) == pytest.approx(float(expected))


def test_calibration_stops_at_512_examples() -> None:
    """An outlier behind them does not widen the range."""
    inputs = np.random.default_rng(0).uniform(-1, 1, (600, 30)).astype(np.float32)
    inputs[512:] = 100.0
    part = Split(inputs, np.arange(600, dtype=np.int32) % 2)
    bench = bench_of(Data(train=part, validation=part, test=part))
    prepared = bench.prepared({})
    params, state = jax.jit(prepared.model.init)(jax.random.key(0))
    ranges = AccuracyEvaluator(bench).ranges(prepared, Recipe(), params, state)
    assert float(ranges[next(iter(prepared.sites))]) == np.abs(inputs[:512]).max()


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
    assert measurement.detail == {"split": "validation"}
    assert measurement.value == scorer.evaluator.score(CANDIDATE, scorer.weights, data.validation)
    assert (measurement.target, measurement.spread, measurement.unit) == (None, None, "")

    tested = scorer.evaluator.test(CANDIDATE, scorer.weights)
    np.testing.assert_array_equal(scorer.seen[-1][1], data.test.targets)
    assert tested.detail == {"split": "test"}
    assert tested.value == scorer.evaluator.score(CANDIDATE, scorer.weights, data.test)


def test_weights_are_those_of_the_training_before_compression(scorer: Scorer) -> None:
    compressed = {**CANDIDATE, "quantize": True, "weight_bits": 2, "sparsity": 0.9}
    evaluation = scorer.evaluator.evaluate(compressed, 0)
    assert evaluation.weights is not None
    assert evaluation.weights.keys() == scorer.weights.keys()
    for name, array in evaluation.weights.items():
        assert type(array) is np.ndarray
        np.testing.assert_array_equal(array, scorer.weights[name])


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
    with pytest.raises(DivergedError, match="outputs are not finite"):
        scorer.evaluator.score(CANDIDATE, broken, scorer.bench.data.validation)


def test_what_the_evaluator_says_of_itself(bench: Workbench) -> None:
    evaluator = AccuracyEvaluator(bench)
    assert evaluator.provides == ("accuracy",)


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
