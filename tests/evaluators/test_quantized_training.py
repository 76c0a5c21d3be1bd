"""Training on the grid: it computes as the deployed program does, and is worth it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.evaluators import AccuracyEvaluator, Workbench
from paretax.evaluators.accuracy import parts
from paretax.evaluators.compilation import deployed_program
from paretax.spaces.compression import compress
from paretax.spaces.fake_quantization import LEARNED, train_on_grid
from paretax.tasks.digits import task as digits

if TYPE_CHECKING:
    from tests.evaluators.conftest import AssertSame, CountingTrainer, Differ, Watching

SMALL = {"width": 12, "depth": 1, "epochs": 3, "batch_size": 64, "learning_rate": 0.05}
# What `trainer` has trained.
TINY = {"width": 4, "depth": 1, "epochs": 2, "batch_size": 64, "learning_rate": 0.02}
FROM_THE_START = {"qat_start": 0.0}  # one program to compile
SCALES: dict[str, dict[str, Any]] = {
    "channel": {},
    "tensor": {"weight_scales": "tensor"},
    "group": {"weight_scales": "group", "group_size": 6},
}


@pytest.mark.parametrize(
    ("qat", "scales"), [("ste", "channel"), ("ste", "group"), ("lsq", "tensor"), ("lsq", "group")]
)
def test_training_computes_as_the_deployed_program(bench: Workbench, qat: str, scales: str) -> None:
    """The forward pass of training, on the final weights and their grid; to rounding of sums."""
    candidate = {
        **SMALL,
        **FROM_THE_START,
        **SCALES[scales],
        "quantize": True,
        "weight_bits": 3,
        "activation_bits": 4,
        "qat": qat,
    }
    evaluator = AccuracyEvaluator(bench)
    weights = evaluator.train(candidate, 0)
    deployed, prepared = bench.deployed(candidate), bench.prepared(candidate)
    params, state, learned = parts(deployed, weights)
    grid = evaluator.grid(deployed, weights)
    inputs = jnp.asarray(bench.data.validation.inputs)

    forward = train_on_grid(prepared.model.apply, prepared.sites, learn=qat == "lsq")
    (trained, _), _ = forward({**params, **learned}, state, inputs, jax.random.key(0), grid)
    arrays = compress(deployed.recipe, deployed.sites, params, state, grid)
    found = deployed_program(deployed)(arrays, inputs)
    np.testing.assert_allclose(trained, found, rtol=1e-4, atol=1e-4)
    plain = prepared.model.predict(params, state, inputs)  # the control: rounding matters
    assert np.abs(np.asarray(plain) - np.asarray(found)).max() > 0.05

    for name in deployed.sites:
        scale = np.asarray(arrays[f"{name}.scale"])
        codes = np.asarray(arrays[name])
        assert codes.dtype == np.int8
        assert np.abs(codes).max() <= 3
        if qat == "lsq":
            steps = [np.exp(np.asarray(learned[f"{name}{side}"])) for side in LEARNED]
            np.testing.assert_allclose(scale, steps[0], rtol=1e-6)
            np.testing.assert_allclose(arrays[f"{name}.input"][..., 0], steps[1], rtol=1e-6)


def test_steps_that_were_learned_are_others_than_calibrated_ones(bench: Workbench) -> None:
    candidate = {**SMALL, **FROM_THE_START, "quantize": True, "weight_bits": 3, "qat": "lsq"}
    evaluator = AccuracyEvaluator(bench)
    weights = evaluator.train(candidate, 0)
    deployed = bench.deployed(candidate)
    learned = evaluator.grid(deployed, weights)
    bare = {n: a for n, a in weights.items() if not n.endswith(LEARNED)}
    calibrated = evaluator.grid(deployed, bare)
    for name in deployed.sites:
        for side in ("weight_step", "input_step"):
            one, other = np.asarray(learned[name][side]), np.asarray(calibrated[name][side])
            assert one.shape == other.shape
            assert (one > 0).all()
            assert not np.allclose(one, other, rtol=1e-3)
    held = bench.data.validation.inputs
    one, other = (evaluator.outputs(candidate, w, held) for w in (weights, bare))
    assert not np.allclose(one, other, rtol=1e-3, atol=1e-3)


def test_training_at_2_bits_beats_rounding_to_2_bits_afterwards() -> None:
    bench = Workbench(digits)
    evaluator = AccuracyEvaluator(bench)
    base = {"width": 24, "depth": 1, "epochs": 12, "batch_size": 64, "learning_rate": 0.01}
    narrow = {**base, "quantize": True, "weight_bits": 2, "activation_bits": 8}
    score = {
        qat: evaluator.evaluate({**narrow, "qat": qat}, 0).measurements[0].value
        for qat in ("none", "ste", "lsq")
    }
    dense = evaluator.evaluate(base, 0).measurements[0].value
    assert score["ste"] > score["none"] + 0.05
    assert score["lsq"] > score["none"] + 0.05
    assert score["lsq"] > dense - 0.1


@pytest.mark.parametrize("qat", ["none", "ste", "lsq"])
def test_preprocessing_is_outside_of_training_and_inside_of_what_is_deployed(
    bench: Workbench, qat: str
) -> None:
    """The grid is of what enters the layers, with the preprocessing before them."""
    candidate = {
        **SMALL,
        **FROM_THE_START,
        "quantize": True,
        "weight_bits": 4,
        "qat": qat,
        "normalization": "minmax",
    }
    evaluator = AccuracyEvaluator(bench)
    evaluation = evaluator.evaluate(candidate, 0)
    weights = evaluation.weights
    assert weights is not None
    deployed = bench.deployed(candidate)
    params, state, _ = parts(deployed, weights)
    assert any(name.startswith("preprocessing/normalization") for name in state)
    grid = evaluator.grid(deployed, weights)
    first = next(iter(grid))
    if qat != "lsq":
        assert float(grid[first]["input_step"]) * 127 == pytest.approx(1.0, abs=1e-3)
    fresh = AccuracyEvaluator(bench)  # which did not train, and keeps no program of it
    for name, numbers in fresh.grid(deployed, weights).items():
        for key, value in numbers.items():
            np.testing.assert_array_equal(value, grid[name][key])
    arrays = compress(deployed.recipe, deployed.sites, params, state, grid)
    held = bench.data.validation
    found = np.asarray(deployed_program(deployed)(arrays, held.inputs))
    assert bench.task.metric.compute(found, held.targets) == evaluation.measurements[0].value
    assert evaluation.measurements[0].value > 0.8


# When it begins, and what compiles ----------------------------------------------------------------


@pytest.mark.parametrize("qat", ["ste", "lsq"])
def test_training_on_the_grid_begins_where_it_is_told(
    trainer: CountingTrainer, watched: Watching, assert_same: AssertSame, differ: Differ, qat: str
) -> None:
    dense, _ = watched(trainer, {**TINY, "epochs": 4})
    candidate = {**TINY, "epochs": 4, "weight_bits": 2, "qat": qat, "qat_start": 0.5}
    seen, _ = watched(trainer, candidate)
    assert_same(dense.weights[0], seen.weights[0])
    assert_same(dense.weights[1], seen.weights[1])
    assert differ(dense.weights[2], seen.weights[2])
    has_steps = [any(n.endswith(LEARNED) for n in w) for w in seen.weights]
    assert has_steps == [False, False, qat == "lsq", qat == "lsq"]


@pytest.mark.parametrize("qat", ["ste", "lsq"])
@pytest.mark.parametrize(
    "change",
    [{"weight_bits": 5}, {"activation_bits": 3}, {"learning_rate": 0.01}, {"sparsity": 0.3}],
    ids=str,
)
def test_the_numbers_of_a_training_on_the_grid_do_not_compile_again(
    trainer: CountingTrainer, differ: Differ, qat: str, change: dict[str, Any]
) -> None:
    usual = {**TINY, "quantize": True, "weight_bits": 4, "sparsity": 0.5, "qat": qat}
    params, *_ = trainer.train(usual, 0)
    before = trainer.traces
    changed, *_ = trainer.train({**usual, **change}, 0)
    assert differ(params, changed)
    assert trainer.traces == before


def test_steps_are_learned_where_there_are_whole_numbers_alone(
    trainer: CountingTrainer, differ: Differ
) -> None:
    candidate = {**TINY, "weight_bits@last": 4, "precision@first": "float8", "qat": "lsq"}
    _, _, learned = trainer.train(candidate, 0)
    assert learned.keys() == {f"out/kernel{side}" for side in LEARNED}
    longer = {**candidate, "epochs": 4}
    assert differ(learned, trainer.train(longer, 0)[2])
