"""Grids from training examples, against naive ones."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.evaluators import Workbench
from paretax.evaluators.calibrating import EXAMPLES, Calibrator
from paretax.spaces.compression import Grid
from paretax.tasks import Arrays

SHAPE = {"width": 6, "depth": 1}
FIRST, LAST = "hidden/0/kernel", "out/kernel"


@pytest.fixture(scope="module")
def calibrator() -> Calibrator:
    """Has found none yet."""
    return Calibrator()


@pytest.fixture(scope="module")
def params(bench: Workbench) -> Arrays:
    """Random ones."""
    rng = np.random.default_rng(0)
    shapes = bench.prepared(SHAPE).params
    return {n: jnp.asarray(rng.normal(size=a.shape), a.dtype) for n, a in shapes.items()}


def grid_of(
    calibrator: Calibrator,
    bench: Workbench,
    params: Arrays,
    candidate: dict[str, Any],
    inputs: np.ndarray | None = None,
    learned: Arrays | None = None,
) -> Grid:
    deployed = bench.deployed({**SHAPE, **candidate})
    return calibrator.grid(
        deployed.key,
        deployed.predict,
        deployed.sites,
        deployed.recipe,
        params,
        {},
        bench.data.train.inputs if inputs is None else inputs,
        learned or {},
    )


def hidden(params: Arrays, inputs: np.ndarray) -> np.ndarray:
    """What enters the last layer."""
    kernel, bias = np.asarray(params[FIRST]), np.asarray(params["hidden/0/bias"])
    entering: np.ndarray = np.maximum(inputs @ kernel + bias, 0.0)
    return entering


def test_inputs_reach_the_largest_code(
    calibrator: Calibrator, bench: Workbench, params: Arrays
) -> None:
    """s = largest / Q, Q = 2^(b - 1) - 1."""
    found = grid_of(calibrator, bench, params, {"weight_bits": 3, "activation_bits": 5})
    inputs = bench.data.train.inputs
    for name, seen in ((FIRST, inputs), (LAST, hidden(params, inputs))):
        numbers = found[name]
        assert (float(numbers["weight_limit"]), float(numbers["input_limit"])) == (3.0, 15.0)
        assert float(numbers["input_step"]) == pytest.approx(np.abs(seen).max() / 15, rel=1e-5)
        columns = np.abs(np.asarray(params[name])).max(axis=0, keepdims=True)
        np.testing.assert_allclose(numbers["weight_step"], columns / 3, rtol=1e-6)
        assert bool(numbers["whole_weights"])
        assert bool(numbers["whole_inputs"])


def test_a_side_in_floating_point_is_not_whole(
    calibrator: Calibrator, bench: Workbench, params: Arrays
) -> None:
    found = grid_of(calibrator, bench, params, {"weight_bits@first": 4, "activation_bits@last": 4})
    whole = {n: (bool(g["whole_weights"]), bool(g["whole_inputs"])) for n, g in found.items()}
    assert whole == {FIRST: (True, False), LAST: (False, True)}


def test_512_examples_are_looked_at(
    calibrator: Calibrator, bench: Workbench, params: Arrays
) -> None:
    """An outlier behind them does not widen the range, and fewer will do."""
    assert EXAMPLES == 512
    inputs = np.random.default_rng(0).uniform(-1, 1, (600, 30)).astype(np.float32)
    inputs[512:] = 100.0
    for part in (inputs, inputs[:3], inputs[:1]):
        found = grid_of(calibrator, bench, params, {"quantize": True}, part)
        expected = np.abs(part[:512]).max() / 127
        assert float(found[FIRST]["input_step"]) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("percentile", [90.0, 99.0, 100.0])
def test_a_percentile_cuts_the_largest_inputs(
    calibrator: Calibrator, bench: Workbench, params: Arrays, percentile: float
) -> None:
    chosen = {"calibration": "percentile", "calibration_percentile": percentile}
    found = grid_of(calibrator, bench, params, {"quantize": True, **chosen})
    inputs = bench.data.train.inputs
    for name, seen in ((FIRST, inputs), (LAST, hidden(params, inputs))):
        magnitudes = np.abs(seen)
        width = float(magnitudes.max()) / 1024  # of a bin
        expected = np.percentile(magnitudes, percentile, method="inverted_cdf")
        reach = float(found[name]["input_step"]) * 127
        assert reach == pytest.approx(float(expected), abs=1.01 * width)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_least_error_is_no_more_than_that_of_the_whole_range(
    calibrator: Calibrator, bench: Workbench, params: Arrays, bits: int
) -> None:
    chosen = {"quantize": True, "weight_bits": bits, "activation_bits": bits}
    whole = grid_of(calibrator, bench, params, chosen)
    least = grid_of(calibrator, bench, params, {**chosen, "calibration": "mse"})
    inputs = bench.data.train.inputs

    def error(values: Any, step: Any) -> float:
        values, step, limit = np.asarray(values), np.asarray(step), 2 ** (bits - 1) - 1
        rounded = np.clip(np.round(values / step), -limit, limit) * step
        return float(((rounded - values) ** 2).sum())

    for name, seen in ((FIRST, inputs), (LAST, hidden(params, inputs))):
        pairs = [(params[name], "weight_step"), (seen, "input_step")]
        for values, side in pairs:
            one, other = error(values, least[name][side]), error(values, whole[name][side])
            assert one <= other * 1.001
            if bits == 2:
                assert one < 0.9 * other


def test_learned_steps_go_before_calibrated_ones(
    calibrator: Calibrator, bench: Workbench, params: Arrays
) -> None:
    learned = {
        f"{FIRST}.weight_step": jnp.log(jnp.full((1, 6), 0.25)),
        f"{FIRST}.input_step": jnp.log(jnp.float32(0.5)),
    }
    plain = grid_of(calibrator, bench, params, {"quantize": True})
    found = grid_of(calibrator, bench, params, {"quantize": True}, learned=learned)
    np.testing.assert_allclose(found[FIRST]["weight_step"], np.full((1, 6), 0.25), rtol=1e-6)
    assert float(found[FIRST]["input_step"]) == pytest.approx(0.5)
    for key, value in plain[LAST].items():
        np.testing.assert_array_equal(found[LAST][key], value)


def test_groups_have_steps_of_their_own(
    calibrator: Calibrator, bench: Workbench, params: Arrays
) -> None:
    scales = {"weight_scales": "group", "group_size": 10}
    found = grid_of(calibrator, bench, params, {"quantize": True, **scales})
    weight = np.abs(np.asarray(params[FIRST]))
    expected = weight.reshape(3, 10, 6).max(axis=1) / 127
    np.testing.assert_allclose(found[FIRST]["weight_step"], expected, rtol=1e-6)
    assert found[LAST]["weight_step"].shape == (1, 2)  # 10 does not divide its 6 inputs


def test_the_numbers_do_not_compile_again(
    bench: Workbench, params: Arrays, compiled: list[str]
) -> None:
    calibrator = Calibrator()
    whole = {"quantize": True}
    grid_of(calibrator, bench, params, {**whole, "weight_bits": 8})
    assert compiled
    compiled.clear()
    other = {n: 2 * a for n, a in params.items()}
    compiled.clear()  # the doubling
    grid_of(calibrator, bench, other, {**whole, "weight_bits": 2, "activation_bits": 5})
    grid_of(calibrator, bench, params, {"weight_bits": 3})
    assert compiled == []
    grid_of(calibrator, bench, params, {**whole, "calibration": "mse"})
    assert compiled  # the control: another program


def test_models_of_another_key_are_kept_apart(calibrator: Calibrator, bench: Workbench) -> None:
    """The same shapes, and other inputs of the first site."""
    raw = bench.deployed({**SHAPE, "quantize": True})
    scaled = bench.deployed({**SHAPE, "quantize": True, "normalization": "minmax"})
    assert raw.key != scaled.key
    assert bench.prepared({**SHAPE, "normalization": "minmax"}).key != scaled.key
    params, _ = jax.jit(bench.prepared(SHAPE).model.init)(jax.random.key(0))
    steps = []
    for deployed in (raw, scaled):
        candidate = {**SHAPE, "normalization": "minmax"} if deployed is scaled else SHAPE
        pipeline = bench.features(candidate).pipeline
        state = {} if pipeline is None else dict(pipeline.arrays)
        args = deployed.predict, deployed.sites, deployed.recipe, params, state
        found = calibrator.grid(deployed.key, *args, bench.data.train.inputs, {})
        steps.append(float(found[FIRST]["input_step"]))
    assert steps[1] == pytest.approx(1 / 127, rel=1e-3)
    assert steps[0] > 2 * steps[1]
