"""Training with a teacher: what it says is heard, and its numbers compile once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.evaluators import Lesson, Workbench
from paretax.spaces.distillation import similarity_loss, soft_target_loss
from paretax.spaces.fake_quantization import LEARNED
from paretax.tasks import Arrays

if TYPE_CHECKING:
    from tests.evaluators.conftest import AssertSame, CountingTrainer, Differ

# What `trainer` has trained.
SMALL = {"width": 4, "depth": 1, "epochs": 2, "batch_size": 64, "learning_rate": 0.02}
DISTILLED = {**SMALL, "distill": True, "alpha": 1.0, "temperature": 2.0}
KERNELS = {"hidden/0/kernel": 30 * 4, "out/kernel": 4 * 2}


@pytest.fixture(scope="module")
def lesson(trainer: CountingTrainer) -> Lesson:
    """A teacher that holds the opposite of the labels, and sees two of the features alone."""
    inputs, labels = trainer._bench.data.train.inputs, trainer._bench.data.train.targets
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 0.5, (len(labels), 2)).astype(np.float32)
    logits[np.arange(len(labels)), 1 - labels] += 4.0
    inner = np.concatenate([inputs[:, :2], -inputs[:, :2]], axis=1)
    return Lesson(key="contrary", teacher="a contrarian", outputs=logits, inner=inner, score=0.0)


def test_a_student_of_the_teacher_alone_does_not_see_the_labels(
    trainer: CountingTrainer, lesson: Lesson, bench: Workbench
) -> None:
    predict = bench.prepared(SMALL).model.predict
    inputs, labels = bench.data.train.inputs, bench.data.train.targets

    def apart(params: Arrays) -> float:
        outputs = predict(params, {}, jnp.asarray(inputs))
        return float(soft_target_loss(outputs, jnp.asarray(lesson.outputs), jnp.float32(2.0)))

    def score(params: Arrays) -> float:
        outputs = np.asarray(predict(params, {}, jnp.asarray(inputs)))
        return float((outputs.argmax(axis=1) == labels).mean())

    candidate = {**DISTILLED, "epochs": 20}
    start, *_ = trainer.train({**candidate, "learning_rate": 1e-9}, 0, lesson)
    taught, *_ = trainer.train(candidate, 0, lesson)
    alone, *_ = trainer.train({**candidate, "alpha": 0.0}, 0, lesson)
    assert apart(taught) < 0.2 * apart(start) < apart(alone)
    assert score(taught) < 0.1
    assert score(alone) > 0.9


def test_with_alpha_0_it_is_plain_training(
    trainer: CountingTrainer, lesson: Lesson, assert_same: AssertSame
) -> None:
    plain, *_ = trainer.train(SMALL, 0)
    distilled, *_ = trainer.train({**DISTILLED, "alpha": 0.0}, 0, lesson)
    assert_same(plain, distilled)
    unheard, *_ = trainer.train({**SMALL, "alpha": 1.0}, 0, lesson)
    assert_same(plain, unheard)  # without `distill` the teacher is not heard


@pytest.mark.parametrize(
    "change", [{"alpha": 0.5}, {"temperature": 8.0}, {"learning_rate": 0.01}], ids=str
)
def test_the_numbers_of_a_distillation_matter_and_do_not_compile_again(
    trainer: CountingTrainer, lesson: Lesson, differ: Differ, change: dict[str, Any]
) -> None:
    usual, *_ = trainer.train(DISTILLED, 0, lesson)
    before = trainer.traces
    changed, *_ = trainer.train({**DISTILLED, **change}, 0, lesson)
    assert differ(usual, changed)
    assert trainer.traces == before


def test_features_draw_a_student_to_what_its_teacher_holds_alike(
    trainer: CountingTrainer, lesson: Lesson, bench: Workbench, differ: Differ
) -> None:
    assert lesson.inner is not None
    prepared = bench.prepared(SMALL)
    inner = jnp.asarray(lesson.inner)

    def apart(params: Arrays) -> float:
        hidden = jnp.asarray(prepared.features.train.inputs) @ params["hidden/0/kernel"]
        hidden = jax.nn.relu(hidden + params["hidden/0/bias"])
        return float(similarity_loss(hidden, inner))

    base = {**DISTILLED, "alpha": 0.0, "epochs": 8}
    found = [
        trainer.train({**base, "feature_weight": weight}, 0, lesson)[0]
        for weight in (0.0, 100.0, 1000.0)
    ]
    assert apart(found[2]) < apart(found[1]) < apart(found[0])
    before = trainer.traces
    again, *_ = trainer.train({**base, "feature_weight": 200.0}, 0, lesson)
    assert differ(again, found[1])
    assert trainer.traces == before


def test_a_distillation_goes_with_the_other_techniques(
    trainer: CountingTrainer, lesson: Lesson, differ: Differ
) -> None:
    candidate = {
        **DISTILLED,
        "feature_weight": 1.0,
        "sparsity": 0.5,
        "fine_tuning": 0.5,
        "quantize": True,
        "qat": "lsq",
        "qat_start": 0.0,
    }
    params, _, learned = trainer.train(candidate, 0, lesson)
    alone, *_ = trainer.train({**candidate, "distill": False}, 0)
    assert differ(params, alone)
    for name, size in KERNELS.items():
        assert (np.asarray(params[name]) == 0).sum() == size // 2
        assert {f"{name}{side}" for side in LEARNED} <= learned.keys()
    assert len(learned) == 2 * len(KERNELS)
