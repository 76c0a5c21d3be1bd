"""Channels and heads that go: what is deployed is smaller, and computes the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.evaluators import AccuracyEvaluator, Workbench
from paretax.evaluators.accuracy import in_chunks, parts
from paretax.evaluators.compilation import deployed_program, lower_for
from paretax.evaluators.size import SizeEvaluator
from paretax.hardware_profiles import load_profile
from paretax.spaces.compression import compress, deployed_shapes
from paretax.spaces.fake_quantization import LEARNED
from paretax.tasks import Data, Split, load_task

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAINING = {"epochs": 2, "batch_size": 32, "learning_rate": 0.01, "fine_tuning": 0.5}
AT_ONCE = {"epochs": 1, "fine_tuning": 0.9}  # masked from the first step: one program to compile


@dataclass(frozen=True, kw_only=True)
class Case:
    """A candidate that loses channels, and one array's shape before and after.

    Args:
        bench: its task.
        candidate: what is searched for.
        shapes: array -> full shape, and what is left of it.
    """

    bench: Workbench
    candidate: dict[str, Any]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def own_model(name: str) -> Workbench:
    """A user's model, on a part of its data."""
    bench = Workbench(load_task(f"own_models:{name}", [EXAMPLES]))
    whole = bench.data
    train, held = (
        Split(part.inputs[:count], part.targets[:count])
        for part, count in ((whole.train, 96), (whole.validation, 48))
    )
    bench.__dict__["data"] = Data(train=train, validation=held, test=held)
    return bench


@pytest.fixture(scope="module", params=["images", "nnx", "linen"])
def case(request: pytest.FixtureRequest) -> Case:
    """Convolution and linear layer; then residual blocks with norms and attention."""
    if request.param == "images":
        return Case(
            bench=request.getfixturevalue("image_bench"),
            candidate={**TRAINING, "channels": 6, "channel_sparsity": 0.5},
            shapes={
                "conv/kernel": ((3, 3, 1, 6), (3, 3, 1, 3)),
                "conv/bias": ((6,), (3,)),
                "out/kernel": ((54, 2), (27, 2)),
                "out/bias": ((2,), (2,)),
            },
        )
    shrunk = {**TRAINING, **AT_ONCE, "width": 8, "heads": 2}
    shrunk |= {"channel_sparsity": 0.5, "head_sparsity": 0.5}
    if request.param == "nnx":
        return Case(
            bench=own_model("nnx_task"),
            candidate=shrunk,
            shapes={
                "conv1/kernel": ((3, 3, 8, 8), (3, 3, 4, 4)),
                "norm1/scale": ((8,), (4,)),
                "norm1/mean": ((8,), (4,)),
                "attention/query/kernel": ((8, 2, 4), (4, 1, 2)),
                "out/kernel": ((8, 10), (4, 10)),
            },
        )
    attention = "MultiHeadDotProductAttention_0"
    return Case(
        bench=own_model("linen_task"),
        candidate=shrunk,
        shapes={
            "Conv_1/kernel": ((3, 3, 8, 8), (3, 3, 4, 4)),
            "BatchNorm_1/scale": ((8,), (4,)),
            "batch_stats/BatchNorm_1/mean": ((8,), (4,)),
            f"{attention}/query/kernel": ((8, 2, 4), (4, 1, 2)),
            "Dense_0/kernel": ((8, 10), (4, 10)),
        },
    )


def test_the_smaller_model_predicts_as_the_masked_one(case: Case) -> None:
    bench, candidate = case.bench, case.candidate
    prepared, deployed = bench.prepared(candidate), bench.deployed(candidate)
    inputs = bench.data.validation.inputs
    evaluator = AccuracyEvaluator(bench)
    params, state, _ = evaluator._trainer.train(candidate, 0)
    full = np.asarray(jax.jit(prepared.model.predict)(params, state, inputs))
    evaluation = evaluator.evaluate(candidate, 0)
    weights = evaluation.weights
    assert weights is not None
    assert {n: a.shape for n, a in weights.items()} == {
        n: s.shape for n, s in {**deployed.params, **deployed.state}.items()
    }
    for name, (before, after) in case.shapes.items():
        assert {**prepared.params, **prepared.state}[name].shape == before
        assert weights[name].shape == after
    own = {n: jnp.asarray(a) for n, a in weights.items()}
    smaller = jax.jit(deployed.predict)(
        {n: own[n] for n in deployed.params}, {n: own[n] for n in deployed.state}, inputs
    )
    np.testing.assert_allclose(smaller, full, rtol=1e-4, atol=1e-5)
    targets = bench.data.validation.targets
    score = bench.task.metric.compute(full, targets)
    assert evaluation.measurements[0].value == score
    scored = evaluator.outputs(candidate, weights, inputs)
    np.testing.assert_allclose(scored, full, rtol=1e-4, atol=1e-5)


def test_what_is_measured_and_stored_is_smaller(case: Case) -> None:
    bench, profile = case.bench, load_profile("cpu")
    names = ("channel_sparsity", "head_sparsity")
    dense = {n: v for n, v in case.candidate.items() if n not in names}
    small, full = (lower_for(profile, bench, c, 4) for c in (case.candidate, dense))
    assert small.fingerprint != full.fingerprint
    for name, (before, after) in case.shapes.items():
        assert full.arrays[name].shape == before
        assert small.arrays[name].shape == after
    assert small.compile().described.peak_memory < full.compile().described.peak_memory
    (size,) = SizeEvaluator(bench).evaluate(case.candidate, 0).measurements
    (whole,) = SizeEvaluator(bench).evaluate(dense, 0).measurements
    assert size.value == sum(4 * int(np.prod(s.shape)) for s in small.arrays.values())
    assert size.detail["dense"] == whole.value
    assert size.value < 0.6 * whole.value


@pytest.mark.parametrize("case", ["images"], indirect=True)
def test_everything_together_scores_as_the_deployed_program(case: Case) -> None:
    bench = case.bench
    candidate = {
        **case.candidate,
        **AT_ONCE,
        "sparsity": 0.5,
        "quantize": True,
        "weight_bits": 4,
        "qat": "lsq",
        "qat_start": 0.0,
    }
    evaluator = AccuracyEvaluator(bench)
    weights = evaluator.evaluate(candidate, 0).weights
    assert weights is not None
    deployed = bench.deployed(candidate)
    for name, site in deployed.sites.items():
        assert weights[name].shape == site.shape
        assert (weights[name] == 0).sum() == round(site.size / 2)
        assert {f"{name}{side}" for side in LEARNED} <= weights.keys()
    params, state, _ = parts(deployed, weights)
    arrays = compress(
        deployed.recipe, deployed.sites, params, state, evaluator.grid(deployed, weights)
    )
    shapes = deployed_shapes(deployed.recipe, deployed.sites, deployed.params, deployed.state)
    assert {n: a.shape for n, a in arrays.items()} == {n: s.shape for n, s in shapes.items()}
    program = deployed_program(deployed)
    held = bench.data.validation
    found = in_chunks(lambda chunk: program(arrays, chunk), held.inputs)
    simulated = evaluator.outputs(candidate, weights, held.inputs)
    np.testing.assert_allclose(found, simulated, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found.argmax(axis=-1), simulated.argmax(axis=-1))


@pytest.mark.parametrize("size", [8, 12])
def test_channels_do_not_cut_through_learned_groups(bench: Workbench, size: int) -> None:
    """Of 24 inputs 16 stay, which are two groups of 8, and no whole number of groups of 12."""
    candidate = {
        **TRAINING,
        "width": 24,
        "depth": 1,
        "channel_sparsity": 1 / 3,
        "quantize": True,
        "qat": "lsq",
        "weight_scales": "group",
        "group_size": size,
    }
    with pytest.raises(UsageError, match=r"removed channels would cut through groups"):
        bench.deployed(candidate)
    assert bench.deployed({**candidate, "qat": "ste"}).removed


@pytest.mark.parametrize("pruning", ["one_shot", "gradual"])
def test_every_way_of_pruning_takes_channels_as_well(image_bench: Workbench, pruning: str) -> None:
    candidate = {
        **TRAINING,
        "channels": 6,
        "channel_sparsity": 0.5,
        "sparsity": 0.3,
        "pruning": pruning,
    }
    evaluator = AccuracyEvaluator(image_bench)
    evaluation = evaluator.evaluate(candidate, 0)
    assert evaluation.weights is not None
    for name, site in image_bench.deployed(candidate).sites.items():
        assert evaluation.weights[name].shape == site.shape
        count = image_bench.deployed(candidate).recipe.treatments[name].count(site.size)
        assert (evaluation.weights[name] == 0).sum() == count
    again = evaluator.evaluate(candidate, 0)
    assert again.weights is not None
    for name, array in evaluation.weights.items():
        np.testing.assert_array_equal(array, again.weights[name])


@pytest.mark.parametrize(
    "asked", [{"channel_sparsity": 0.5, "sparsity": 0.5}, {"pruning_pattern": "1:2"}]
)
def test_a_lottery_is_of_single_weights(bench: Workbench, asked: dict[str, Any]) -> None:
    candidate = {**TRAINING, "width": 4, "pruning": "lottery_ticket", **asked}
    with pytest.raises(UsageError, match=r"a lottery ticket is found by `sparsity` alone"):
        bench.deployed(candidate)


def test_what_cannot_lose_channels_says_why(bench: Workbench) -> None:
    with pytest.raises(UsageError, match=r"would empty 'hidden/0/kernel': all of its 4 channels"):
        bench.deployed({"width": 4, "channel_sparsity": 0.95})
    with pytest.raises(UsageError, match=r"channel_block must divide the channels"):
        bench.deployed({"width": 4, "channel_sparsity": 0.5, "channel_block": 3})
    with pytest.raises(UsageError, match=r"head_sparsity needs heads that can be removed"):
        bench.deployed({"width": 4, "head_sparsity": 0.5})
