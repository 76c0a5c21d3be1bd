"""What pruning brings: speed from removed channels, accuracy from pruning gradually.

Speed is measured on this machine's CPU: the deployed program of the mnist5k CNN, whole, with half
of its channels as zeros (what an unstructured mask leaves to dense hardware), and with half of its
channels removed. Gradual pruning (Zhu and Gupta, 2017) is compared with pruning at once, at 90%
sparsity, both fine-tuned for the same epochs; test accuracy, means over seeds.
"""

from __future__ import annotations

import time
from itertools import product
from typing import Any

import numpy as np
from reporting import arguments, finish, of_scale, show

from paretax.evaluators import AccuracyEvaluator, Target, Workbench
from paretax.evaluators.measured import MeasuredEvaluator
from paretax.tasks import load_task

WIDTHS = (8, 16, 32, 64)
BATCHES = (1, 32)
JUDGED = 64  # the width of the figure; the table shows where XLA gains nothing by fewer channels
TRAINED: dict[str, dict[str, Any]] = {
    "digits": {"width": 64, "depth": 2, "epochs": 60, "learning_rate": 3e-3},
    "mnist5k": {"channels": 8, "depth": 2, "hidden": 64, "epochs": 12, "learning_rate": 2e-3},
}


def latencies(bench: Workbench, channels: int, batch: int, repeats: int) -> dict[str, float]:
    """Microseconds of each program: the least of some medians, taken in turn."""
    dense: dict[str, Any] = {"channels": channels, "depth": 2, "hidden": 4 * channels}
    candidates = {
        "dense": dense,
        "half the weights zero": dense | {"sparsity": 0.5},
        "half the channels removed": dense | {"channel_sparsity": 0.5},
    }
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, candidate in candidates.items():
            evaluator = MeasuredEvaluator(bench, Target.of("cpu", batch))
            measured = evaluator.evaluate(candidate, 0).measurements
            found.setdefault(name, []).append(measured[0].value)
    return {name: min(values) for name, values in found.items()}


def main() -> None:
    """Run both sides and print the tables."""
    given, began = arguments(__doc__ or ""), time.perf_counter()
    bench = Workbench(load_task("mnist5k", []))
    rows: list[dict[str, Any]] = []
    speedups: dict[tuple[int, int], float] = {}
    zeros: list[float] = []
    repeats = of_scale(given, full=4, quick=2, smoke=1)
    widths = of_scale(given, full=WIDTHS, quick=WIDTHS, smoke=WIDTHS[-1:])
    for channels, batch in product(widths, BATCHES):
        taken = latencies(bench, channels, batch, repeats)
        ratios = {f"{n}: faster": taken["dense"] / v for n, v in taken.items() if n != "dense"}
        rows.append({"channels": channels, "batch": batch, "dense, us": taken["dense"], **ratios})
        speedups[channels, batch] = ratios["half the channels removed: faster"]
        zeros.append(ratios["half the weights zero: faster"])
    show("The CNN's deployed program on this CPU, measured", rows)
    seeds = range(of_scale(given, full=10, quick=3, smoke=2))
    shorter = of_scale(given, full={}, quick={}, smoke={"epochs": 1})
    gains, rows = [], []
    for task, config in ((task, config | shorter) for task, config in TRAINED.items()):
        bench = Workbench(load_task(task, []))
        evaluator, test = AccuracyEvaluator(bench), bench.data.test
        found: dict[str, list[float]] = {}
        for seed in seeds:
            for name in ("one_shot", "gradual"):
                candidate = config | {"sparsity": 0.9, "pruning": name}
                weights = evaluator.train(candidate, seed)
                found.setdefault(name, []).append(100 * evaluator.score(candidate, weights, test))
            dense = evaluator.train(config, seed)
            found.setdefault("dense", []).append(100 * evaluator.score(config, dense, test))
        differences = np.subtract(found["gradual"], found["one_shot"])
        gains.append(float(differences.mean()))
        error = float(differences.std(ddof=1)) / len(seeds) ** 0.5
        means = {name: float(np.mean(values)) for name, values in found.items()}
        rows.append({"task": task, **means, "gain": gains[-1], "standard error": error})
    show(f"Test accuracy at 90% sparsity, per cent, {len(seeds)} seeds", rows)
    figures = {
        "structured_speedup": min(speedups[JUDGED, batch] for batch in BATCHES),
        "most_speedup_of_zeros": max(zeros),
        "gradual_gain_points": min(gains),
    }
    for batch in BATCHES:
        of_batch = [ratio for (_, b), ratio in speedups.items() if b == batch]
        figures |= {
            f"structured_speedup_batch_{batch}": speedups[JUDGED, batch],
            f"least_structured_speedup_batch_{batch}": min(of_batch),
        }
    finish(given, figures, began)


if __name__ == "__main__":
    main()
