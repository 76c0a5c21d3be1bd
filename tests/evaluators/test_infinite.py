"""Logits of minus infinity rule classes out; they are trained, scored, taught and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from paretax.errors import UsageError
from paretax.evaluators import AccuracyEvaluator, Lesson, Reason, Workbench
from paretax.evaluators.calibrating import Calibrator
from paretax.spaces.distillation import soft_target_loss
from paretax.spaces.recipe import Recipe
from paretax.spaces.sites import find_sites
from paretax.tasks import classification, split

SMALL = {"epochs": 10, "batch_size": 32, "learning_rate": 0.02}


class Masked(nnx.Module):
    """Five classes, of which the last two cannot be; or NaN for everything."""

    def __init__(self, config: Any, rngs: nnx.Rngs) -> None:
        self.hidden, self.out = nnx.Linear(4, 16, rngs=rngs), nnx.Linear(16, 5, rngs=rngs)
        self.other = config["other"]

    def __call__(self, x: jax.Array) -> jax.Array:
        logits = self.out(nnx.relu(self.hidden(x)))
        return jnp.where(jnp.arange(5) < 3, logits, float(self.other))


def load() -> Any:
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    centres = 4 * rng.normal(size=(3, 4))
    return split((centres[labels] + rng.normal(size=(300, 4))).astype(np.float32), labels)


task = classification("masked", load=load, build=Masked, defaults={"other": "-inf"})


@pytest.fixture(scope="module")
def bench() -> Workbench:
    """Of the masked task."""
    return Workbench(task)


@pytest.mark.parametrize(
    "change",
    [{}, {"quantize": True}, {"quantize": True, "qat": "lsq"}, {"precision": "bfloat16"}],
    ids=str,
)
def test_classes_that_cannot_be(bench: Workbench, change: dict[str, Any]) -> None:
    evaluation = AccuracyEvaluator(bench).evaluate({**SMALL, **change}, 0)
    assert evaluation.failure is None
    assert evaluation.measurements[0].value > 0.95


def test_classes_that_cannot_be_at_a_rung(bench: Workbench) -> None:
    evaluation = AccuracyEvaluator(bench).advance(SMALL, 0, 8)
    assert evaluation.failure is None
    assert evaluation.measurements[0].value > 0.9


def test_what_is_no_number_still_fails(bench: Workbench) -> None:
    evaluation = AccuracyEvaluator(bench).evaluate({**SMALL, "other": "nan"}, 0)
    assert evaluation.failure is not None
    assert evaluation.failure.reason is Reason.DIVERGED


def test_a_teacher_that_rules_classes_out(bench: Workbench) -> None:
    labels = bench.data.train.targets
    outputs = np.where(np.arange(5) < 3, 8.0 * np.eye(5)[labels], -np.inf).astype(np.float32)
    lesson = Lesson(key="k", teacher="a teacher", outputs=outputs, inner=None, score=1.0)
    distilled = {**SMALL, "distill": True, "alpha": 1.0}
    evaluation = AccuracyEvaluator(bench, lesson).evaluate(distilled, 0)
    assert evaluation.failure is None
    assert evaluation.measurements[0].value > 0.95


def test_the_gradient_beside_infinite_logits_is_that_without_them() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 6, 3)).astype(np.float32)
    ruled_out = np.full((6, 2), -np.inf, np.float32)

    def loss(z: jax.Array, more: Any) -> jax.Array:
        own, soft = (jnp.concatenate([a, more], axis=1) for a in (z, teacher))
        return soft_target_loss(own, soft, jnp.float32(2.0))

    few, many = (jax.value_and_grad(loss)(student, m) for m in (ruled_out[:, :0], ruled_out))
    np.testing.assert_allclose(many[0], few[0], rtol=1e-6)
    np.testing.assert_allclose(many[1], few[1], rtol=1e-5, atol=1e-8)


def test_infinite_inputs_of_a_site_have_no_grid() -> None:
    predict = lambda params, state, x: x @ params["w"]  # noqa: E731
    params = {"w": jnp.ones((2, 3))}
    inputs = np.array([[1.0, 2.0], [3.0, np.inf]], np.float32)
    sites = find_sites(predict, params, {}, inputs)

    def grid(**bits: int) -> Any:
        recipe = Recipe.of(bits, sites)
        return Calibrator().grid("k", predict, sites, recipe, params, {}, inputs, {})

    with pytest.raises(UsageError, match="the inputs of w are infinite"):
        grid(weight_bits=8, activation_bits=8)
    assert grid(weight_bits=8)


def test_exported_and_verified(tmp_path: Path) -> None:
    """Over the whole way, the file of the task included."""
    from paretax.results import export_bundle, verify_bundle
    from paretax.search import parse_config, plan, run_search

    name = "masked_in_a_file"
    (tmp_path / f"{name}.py").write_text(Path(__file__).read_text("utf-8"))
    config = {
        "task": f"{name}:task",
        "objectives": ["accuracy", "size"],
        "space": {**SMALL, "quantize": {"type": "categorical", "choices": [False, True]}},
        "sampler": "grid",
        "executor": "inline",
        "budget": {"trials": 2},
    }
    run = run_search(plan(parse_config(config, "config"), [tmp_path]), tmp_path / "run")
    for trial in run.front("cpu"):
        assert trial.test is not None
        bundle = tmp_path / f"bundle{trial.number}"
        export_bundle(run, trial, "cpu", bundle)
        assert verify_bundle(bundle, [tmp_path]).value == trial.test.value > 0.9
