"""What a small network gains from a teacher, and how the temperature matters.

A student with a thirtieth of its teacher's weights learns MNIST digits from 500 labelled images,
alone and with the teacher's softened outputs on the same images (Hinton, Vinyals and Dean, 2015,
arXiv:1503.02531). The teacher saw all 4,000 training images; a second one, for comparison, saw the
same 500. Test accuracy, means over seeds. A single plain optax loop beside ours shows that the
student without a teacher is no straw man.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from reporting import arguments, finish, of_scale, show
from safetensors.numpy import save_file
from sklearn.model_selection import train_test_split

from paretax.evaluators import AccuracyEvaluator, Workbench
from paretax.results.teaching import Teacher, make_lesson
from paretax.tasks import Data, Split, classification, load_task

LABELLED = 500
TEACHER: dict[str, Any] = {
    "channels": 16,
    "depth": 2,
    "hidden": 128,
    "epochs": 12,
    "learning_rate": 2e-3,
    "batch_size": 64,
}
STUDENT: dict[str, Any] = {
    "channels": 4,
    "depth": 2,
    "hidden": 16,
    "epochs": 60,
    "learning_rate": 5e-3,
    "batch_size": 50,
}
TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 20.0)
JUDGED = 4.0


def few_labels() -> Any:
    """The mnist5k task with 500 of its training images."""
    whole = load_task("mnist5k", [])

    def load() -> Data:
        data = whole.data()
        rows, _ = train_test_split(
            np.arange(len(data.train)),
            train_size=LABELLED,
            stratify=data.train.targets,
            random_state=0,
        )
        few = Split(data.train.inputs[rows], data.train.targets[rows])
        return Data(train=few, validation=data.validation, test=data.test)

    return classification("mnist500", load=load, build=whole.build, defaults=dict(whole.defaults))


def plain_loop(bench: Workbench, student: dict[str, Any], seed: int) -> float:
    """The student's test accuracy in a hand-written Flax and optax loop."""
    model = bench.task.build(bench.config(student), nnx.Rngs(seed))
    train, batch = bench.data.train, int(student["batch_size"])
    steps = len(train) // batch
    schedule = optax.cosine_decay_schedule(student["learning_rate"], student["epochs"] * steps)
    optimizer = nnx.Optimizer(model, optax.adam(schedule), wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any, x: jax.Array, y: jax.Array) -> None:
        def loss(model: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    rng = np.random.default_rng(seed)
    for _ in range(student["epochs"]):
        for rows in rng.permutation(len(train))[: steps * batch].reshape(steps, batch):
            step(
                model, optimizer, jnp.asarray(train.inputs[rows]), jnp.asarray(train.targets[rows])
            )
    right = np.asarray(model(jnp.asarray(bench.data.test.inputs))).argmax(-1)
    return 100 * float((right == bench.data.test.targets).mean())


def main() -> None:
    """Run all students and print the tables."""
    given, began = arguments(__doc__ or ""), time.perf_counter()
    seeds = range(of_scale(given, full=5, quick=5, smoke=2))
    shorter = of_scale(given, full={}, quick={}, smoke={"epochs": 1})
    large, small = TEACHER | shorter, STUDENT | shorter
    bench, few = Workbench(load_task("mnist5k", [])), Workbench(few_labels())
    knowing = AccuracyEvaluator(bench)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PARETAX_CACHE"] = folder  # nothing from earlier runs
        path = Path(folder) / "teacher.safetensors"
        weights = knowing.train(large, 0)
        save_file({name: np.asarray(array) for name, array in weights.items()}, path)
        lesson = make_lesson(few, Teacher(candidate=large, checkpoint=path))
        same = make_lesson(few, Teacher(candidate=TEACHER | {"epochs": 60} | shorter))
    sizes = [
        sum(int(np.prod(s.shape)) for s in few.prepared(c).params.values()) for c in (small, large)
    ]
    rows = [
        {
            "network": "teacher, 4,000 images",
            "weights": sizes[1],
            "test, %": 100 * knowing.score(large, weights, bench.data.test),
        }
    ]
    few_of = (1.0, JUDGED, 20.0)
    temperatures = of_scale(given, full=TEMPERATURES, quick=few_of, smoke=few_of)
    variants: dict[str, tuple[Any, dict[str, Any]]] = {"student alone": (None, {})}
    for temperature in temperatures:
        extra = {"distill": True, "alpha": 0.9, "temperature": temperature}
        variants[f"student, T = {temperature:g}"] = lesson, extra
    extra = {"distill": True, "alpha": 0.9, "temperature": JUDGED}
    variants["student, T = 4, features as well"] = lesson, extra | {"feature_weight": 10.0}
    variants["student, T = 4, teacher of 500 images"] = same, extra
    means = {}
    for name, (taught, extra) in variants.items():
        evaluator = AccuracyEvaluator(few, taught)
        candidate = small | extra
        scores = [
            100 * evaluator.score(candidate, evaluator.train(candidate, seed), few.data.test)
            for seed in seeds
        ]
        means[name] = float(np.mean(scores))
        error = float(np.std(scores, ddof=1)) / len(scores) ** 0.5
        rows.append(
            {"network": name, "weights": sizes[0], "test, %": means[name], "standard error": error}
        )
    plain = [plain_loop(few, small, seed) for seed in seeds]
    rows.append(
        {"network": "student alone, plain loop", "weights": sizes[0], "test, %": np.mean(plain)}
    )
    show(f"MNIST, {LABELLED} labelled images, {len(seeds)} seeds", rows)
    figures = {
        "gain_points": means[f"student, T = {JUDGED:g}"] - means["student alone"],
        "student_share": sizes[0] / sizes[1],
        "labelled": LABELLED,
        "alone": means["student alone"],
    } | {f"taught_{t:g}": means[f"student, T = {t:g}"] for t in few_of}
    finish(given, figures, began)


if __name__ == "__main__":
    main()
