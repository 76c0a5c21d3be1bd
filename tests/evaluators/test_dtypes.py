"""A model's own dtypes, from training to the program that is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from paretax.errors import UsageError
from paretax.evaluators import AccuracyEvaluator, Workbench
from paretax.evaluators.accuracy import parts
from paretax.evaluators.compilation import deployed_program, lower_for
from paretax.evaluators.measured import _plausible
from paretax.evaluators.scoring import metric_of
from paretax.evaluators.size import count_bytes
from paretax.evaluators.training import to_numpy
from paretax.hardware_profiles import load_profile
from paretax.spaces.compression import compress
from paretax.tasks import Data, Metric, Split, classification

SHORT = {"epochs": 3, "batch_size": 20, "learning_rate": 0.02}


def _data(dtype: Any) -> Callable[[], Data]:
    def load() -> Data:
        rng = np.random.default_rng(0)
        labels = np.arange(120, dtype=np.int32) % 3
        inputs = rng.normal(0, 20, (120, 6)) + 60 * np.eye(3, 6)[labels] + 100
        inputs = np.clip(inputs, 0, 255).astype(np.uint8).astype(dtype)
        cut = [slice(0, 60), slice(60, 90), slice(90, 120)]
        train, validation, test = (Split(inputs[part], labels[part]) for part in cut)
        return Data(train=train, validation=validation, test=test)

    return load


class Net(nnx.Module):
    """Two dense layers behind a permutation; parameters and products in dtypes of their own."""

    def __init__(self, own: Any, low: Any, rngs: nnx.Rngs) -> None:
        self.order = nnx.Param(jnp.arange(6)[::-1])
        self.one = nnx.Linear(6, 16, dtype=low, param_dtype=own, rngs=rngs)
        self.two = nnx.Linear(16, 3, dtype=low, param_dtype=own, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x[:, self.order[...]].astype(jnp.float32) / 128 - 1
        return self.two(nnx.relu(self.one(x)))


def bench_of(own: Any, low: Any = None, inputs: Any = np.float32) -> Workbench:
    return Workbench(
        classification(
            "dtypes", load=_data(inputs), build=lambda c, rngs: Net(own, low or own, rngs),
            defaults={},
        )
    )  # fmt: skip


KINDS = {
    "bfloat16": (jnp.bfloat16, jnp.bfloat16),
    "float16": (jnp.float16, jnp.float16),
    "mixed": (jnp.float32, jnp.bfloat16),
    "low weights": (jnp.float16, jnp.float32),
}


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [
        *((kind, "adamw") for kind in KINDS),
        ("float16", "sgd"),
        ("float16", "lion"),
    ],
)
def test_training_keeps_the_dtypes_and_learns(kind: str, optimizer: str) -> None:
    """Also in float16, where Adam's epsilon and the squares of small gradients are nothing."""
    bench = bench_of(*KINDS[kind])
    evaluator = AccuracyEvaluator(bench)
    rates = {"adamw": 0.02, "sgd": 0.05, "lion": 0.01}
    candidate = {
        **SHORT,
        "epochs": 8,
        "optimizer": optimizer,
        "learning_rate": rates[optimizer],
        "weight_decay": 0.01,
        "gradient_clip": 1.0,
    }
    weights = to_numpy(evaluator.train(candidate, 0))
    own = jnp.dtype(KINDS[kind][0])
    order = weights.pop("params/order")
    assert order.dtype == np.int32
    np.testing.assert_array_equal(order, np.arange(6)[::-1])
    assert {a.dtype for a in weights.values()} == {own}
    assert len(weights) == 4
    assert evaluator.score(candidate, {**weights, "params/order": order}, bench.data.test) > 0.8


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("bfloat16", {"quantize": True, "qat": "lsq"}),
        ("float16", {"sparsity": 0.5}),
        ("mixed", {}),
        ("mixed", {"weight_bits": 4, "qat": "ste"}),
        ("low weights", {"activation_bits": 5}),
    ],
    ids=str,
)
def test_what_is_scored_is_what_is_exported(kind: str, how: dict[str, Any]) -> None:
    """Bit for bit, through `jax.export` with any batch size."""
    bench = bench_of(*KINDS[kind])
    evaluator, candidate = AccuracyEvaluator(bench), {**SHORT, **how}
    weights = evaluator.train(candidate, 0)
    model, inputs = bench.deployed(candidate), bench.data.test.inputs
    params, state, _ = parts(model, weights)
    arrays = compress(model.recipe, model.sites, params, state, evaluator.grid(model, weights))
    shape = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), 6), inputs.dtype)
    exported = jax.export.export(deployed_program(model))(arrays, shape)
    scored = evaluator.outputs(candidate, weights, inputs)
    assert scored.dtype == KINDS[kind][1]
    np.testing.assert_array_equal(jax.jit(exported.call)(arrays, inputs), scored)
    if not model.recipe.rounds:
        plain = jax.jit(bench.prepared(candidate).model.predict)(params, state, inputs)
        np.testing.assert_array_equal(scored, plain)


@pytest.mark.parametrize(
    ("kind", "product"),
    [
        ("bfloat16", "(tensor<4x6xbf16>, tensor<6x16xbf16>) -> tensor<4x16xbf16>"),
        ("float16", "(tensor<4x6xf16>, tensor<6x16xf16>) -> tensor<4x16xf16>"),
        ("mixed", "(tensor<4x6xbf16>, tensor<6x16xbf16>) -> tensor<4x16xbf16>"),
        ("low weights", "(tensor<4x6xf32>, tensor<6x16xf32>) -> tensor<4x16xf32>"),
    ],
)
def test_the_compiled_program_takes_and_multiplies_the_models_own(kind: str, product: str) -> None:
    bench = bench_of(*KINDS[kind])
    lowered = lower_for(load_profile("cpu"), bench, SHORT, 4)
    assert product in lowered.lowered.as_text()
    weights = (6 * 16 + 16 + 16 * 3 + 3) * jnp.dtype(KINDS[kind][0]).itemsize + 6 * 4
    assert lowered.compile().described.argument_bytes == weights + 4 * 6 * 4
    assert count_bytes(bench, SHORT).value == weights


@pytest.mark.parametrize("dtype", [np.float16, np.uint8, jnp.bfloat16])
def test_inputs_of_other_dtypes_go_in_as_they_are(dtype: Any) -> None:
    bench = bench_of(jnp.float32, inputs=dtype)
    assert bench.batch_shape(3).dtype == dtype
    evaluator, candidate = AccuracyEvaluator(bench), {**SHORT, "epochs": 8, "quantize": True}
    weights = evaluator.train(candidate, 0)
    assert evaluator.score(candidate, weights, bench.data.test) > 0.8
    text = lower_for(load_profile("cpu"), bench, SHORT, 4).lowered.as_text()
    name = {"uint8": "ui8", "float16": "f16", "bfloat16": "bf16"}[jnp.dtype(dtype).name]
    assert f"tensor<4x6x{name}>" in text


@pytest.mark.parametrize("dtype", [jnp.complex64, jnp.float8_e4m3fn, jnp.int4])
def test_arrays_that_cannot_be_kept_are_refused_by_name(dtype: Any) -> None:
    def build(config: Any) -> Any:
        def init(key: jax.Array, x: jax.Array) -> dict[str, Any]:
            return {"w": jnp.ones((6, 3)), "odd": {"one": jnp.ones(3, jnp.int8).astype(dtype)}}

        return init, lambda p, x: x @ p["w"] + p["odd"]["one"].astype(jnp.float32).real

    bench = Workbench(classification("odd", load=_data(np.float32), build=build, defaults={}))
    with pytest.raises(UsageError, match=rf"array 'odd/one' .* got {jnp.dtype(dtype).name}"):
        bench.prepared({})


def test_metrics_see_float32() -> None:
    """NumPy's own mean of many bfloat16 numbers stops growing at 256."""
    seen: list[np.ndarray] = []

    def compute(outputs: np.ndarray, targets: np.ndarray) -> float:
        seen.append(outputs)
        return float(outputs.mean())

    metric = Metric(name="average", direction="minimize", compute=compute)
    task = classification(
        "mean", load=_data(np.float32), build=lambda c: None, defaults={}, metric=metric
    )
    ones = np.ones((1000, 1), jnp.dtype(jnp.bfloat16))
    assert metric_of(task, ones, np.zeros(1000)) == 1.0
    assert metric_of(task, ones.astype(np.float64), np.zeros(1000)) == 1.0
    assert [a.dtype for a in seen] == [np.float32, np.float64]


def test_measured_programs_get_plausible_arrays_of_every_dtype() -> None:
    shapes = {
        "w": jax.ShapeDtypeStruct((3, 4), jnp.bfloat16),
        "order": jax.ShapeDtypeStruct((5,), jnp.uint8),
        "flags": jax.ShapeDtypeStruct((2,), jnp.bool_),
        "codes": jax.ShapeDtypeStruct((2, 2), jnp.int8),
    }
    made = _plausible(shapes)
    assert {n: (a.shape, a.dtype) for n, a in made.items()} == {
        n: (s.shape, s.dtype) for n, s in shapes.items()
    }
    np.testing.assert_array_equal(made["order"], np.arange(5))
