"""Distillation fits what a task's outputs are: classes, yes-or-no answers, values, or its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from paretax.errors import UsageError
from paretax.evaluators import AccuracyEvaluator, Lesson, Workbench
from paretax.search import parse_config, plan
from paretax.spaces.training import smoothed_loss
from paretax.tasks import Data, Metric, Split, SupervisedTask
from paretax.tasks.outputs import check_distillation, outputs_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 6)).astype(np.float32)
TAUGHT = {"epochs": 60, "batch_size": 30, "learning_rate": 0.05, "distill": True, "alpha": 1.0}
MAE = Metric(
    name="mae", direction="minimize", compute=lambda o, t: float(np.abs(o - t).mean()), unit=""
)


def squares(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return ((outputs - targets) ** 2).mean()


def sigmoids(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    losses: jax.Array = optax.sigmoid_binary_cross_entropy(outputs, targets)
    return losses.mean()


class Linear(nnx.Module):
    """One layer, its outputs shaped."""

    def __init__(self, shape: tuple[int, ...], rngs: nnx.Rngs) -> None:
        self.shape = shape
        self.out = nnx.Linear(6, int(np.prod(shape)), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(x).reshape(-1, *self.shape)


def make(shape: tuple[int, ...], loss: Any, **says: Any) -> SupervisedTask:
    """A task whose labels are all zero, so that only a teacher can teach."""
    part = Split(X, np.zeros((len(X), *shape), np.float32))
    return SupervisedTask(
        name="mine",
        metric=MAE,
        load=lambda: Data(train=part, validation=part, test=part),
        model=lambda config, rngs: Linear(shape, rngs),
        loss_function=loss,
        defaults={},
        **says,
    )


def teacher(shape: tuple[int, ...]) -> np.ndarray:
    weights = np.random.default_rng(1).normal(size=(6, int(np.prod(shape))))
    return (X @ weights + 2.0).reshape(-1, *shape).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "loss", "kind"),
    [
        ((), squares, "values"),
        ((1,), squares, "values"),
        ((2, 2, 1), sigmoids, "sigmoids"),
        ((4,), sigmoids, "sigmoids"),
    ],
)
def test_a_student_of_the_teacher_alone_reaches_it(
    shape: tuple[int, ...], loss: Any, kind: str
) -> None:
    bench, outputs = Workbench(make(shape, loss, outputs=kind)), teacher(shape)
    lesson = Lesson(key="k", teacher="a teacher", outputs=outputs, inner=None, score=0.0)
    evaluator = AccuracyEvaluator(bench, lesson)
    weights = evaluator.train(TAUGHT, 0)
    found = evaluator.outputs(TAUGHT, weights, X)
    assert np.abs(found - outputs).mean() < 0.05 < np.abs(outputs).mean() / 20


def test_a_loss_of_the_task_s_own() -> None:
    def doubled(outputs: jax.Array, taught: jax.Array, temperature: jax.Array) -> jax.Array:
        return ((outputs - temperature * taught) ** 2).mean()

    bench = Workbench(make((2,), squares, distillation_loss=doubled))
    lesson = Lesson(key="k", teacher="t", outputs=teacher((2,)), inner=None, score=0.0)
    evaluator = AccuracyEvaluator(bench, lesson)
    candidate = {**TAUGHT, "temperature": 2.0}
    found = evaluator.outputs(candidate, evaluator.train(candidate, 0), X)
    np.testing.assert_allclose(found, 2 * teacher((2,)), atol=0.3)


# What does not fit --------------------------------------------------------------------------------


def batch(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, *shape), dtype)


@pytest.mark.parametrize(
    ("says", "shape", "message"),
    [
        ({}, (3,), r"a loss of its own, so how .* add `outputs` to the task: 'classes'"),
        ({"outputs": "classes"}, (1,), r"two classes or more, got \(2, 1\): say 'sigmoids'"),
        ({"outputs": "classes"}, (), r"two classes or more, got \(2,\)"),
        ({"outputs": "clases"}, (3,), "unknown kind of outputs 'clases'.*Did you mean 'classes'"),
        ({"distillation_loss": lambda o, t, h: o - t}, (3,), "must be a scalar, got"),
    ],
)
def test_outputs_that_cannot_be_distilled(
    says: dict[str, Any], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check_distillation(make(shape, squares, **says), batch(*shape))


def test_a_temperature_that_nobody_reads_is_refused() -> None:
    task = make((), squares, outputs="values")
    check_distillation(task, batch())
    with pytest.raises(UsageError, match="`temperature` softens logits"):
        check_distillation(task, batch(), temperature=True)
    check_distillation(make((), squares, outputs="sigmoids"), batch(), temperature=True)
    with pytest.raises(UsageError, match="only real outputs"):
        check_distillation(task, batch(dtype=jnp.int32))


def test_a_space_that_distils_what_is_not_said_is_refused(tmp_path: Any) -> None:
    (tmp_path / "unsaid.py").write_text(
        "from tests.evaluators.test_taught_outputs import make, squares\n"
        "task = make((2,), squares)\n"
        "said = make((2,), squares, outputs='values')\n"
    )

    def config(task: str, **space: Any) -> Any:
        plain = {"distill": {"type": "categorical", "choices": [False, True]}, "epochs": 1}
        more = {"objectives": ["mae", "size"], "budget": {"trials": 1}, "executor": "inline"}
        whole = {"task": f"unsaid:{task}", "space": {**plain, **space}, **more}
        return parse_config({**whole, "teacher": {"candidate": {"epochs": 1}}}, "config")

    with pytest.raises(UsageError, match="add `outputs` to the task"):
        plan(config("task"), [tmp_path])
    with pytest.raises(UsageError, match="leave it out"):
        plan(config("said", temperature=2.0), [tmp_path])
    plan(config("said"), [tmp_path])
    plan(config("task", alpha=0.0, feature_weight=1.0), [tmp_path])  # features alone


def test_a_candidate_is_refused_like_its_space() -> None:
    lesson = Lesson(key="k", teacher="t", outputs=teacher((2,)), inner=None, score=0.0)
    evaluator = AccuracyEvaluator(Workbench(make((2,), squares)), lesson)
    with pytest.raises(UsageError, match="add `outputs` to the task"):
        evaluator.train(TAUGHT, 0)


def test_labels_are_smoothed_over_classes_alone() -> None:
    unsaid = replace(make((), squares), load=lambda: _labelled())
    with pytest.raises(UsageError, match="label_smoothing needs outputs of classes"):
        Workbench(unsaid).check_training({"label_smoothing": 0.1, "batch_size": 8})
    assert outputs_of(unsaid) is None


def _labelled() -> Data:
    part = Split(X, (X[:, 0] > 0).astype(np.int32))
    return Data(train=part, validation=part, test=part)


def test_padding_is_not_smoothed() -> None:
    logits = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
    labels = jnp.array([0, -1, 2, -1])

    def loss(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        kept = labels >= 0
        picked = optax.softmax_cross_entropy_with_integer_labels(outputs, jnp.maximum(labels, 0))
        return jnp.where(kept, picked, 0.0).sum() / kept.sum()

    shares = 0.7 * jax.nn.one_hot(labels, 3) + 0.1
    expected = -(shares * jax.nn.log_softmax(logits)).sum(-1)[jnp.array([0, 2])].mean()
    np.testing.assert_allclose(
        smoothed_loss(loss, logits, labels, jnp.float32(0.3)), expected, rtol=1e-5
    )
