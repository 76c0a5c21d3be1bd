"""How the cost of a candidate grows with the population and with the number of signatures.

Digits, an MLP of two hidden layers, 54 epochs. Populations of one signature, compiled before: lane
by lane, as a CPU trains, and on a batch axis (`vmap`) for comparison. Signatures: 16 candidates
each, compilation included, in a fresh process. Last, the same search twice, each in a fresh process
with the same folder of compiled programs: what the second one compiles.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

HELD = {"depth": 2, "batch_size": 128, "optimizer": "adamw"}
SIZES = (1, 4, 16, 64, 256)
COUNTS = (1, 4, 16)
WIDTHS = (16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64, 68, 72, 76)


def members(count: int, width: int, epochs: int) -> list[tuple[dict[str, Any], int]]:
    """Candidates of one signature."""
    rates = 10 ** np.random.default_rng(width).uniform(-3, -2, count)
    held = {**HELD, "width": width, "epochs": epochs}
    return [({**held, "learning_rate": float(r)}, i) for i, r in enumerate(rates)]


def populations(sizes: Sequence[int], epochs: int, batch_axis: int) -> dict[str, Any]:
    """Seconds a candidate for each size of a population; on the batch axis up to `batch_axis`."""
    from paretax.evaluators import AccuracyEvaluator, Workbench
    from paretax.tasks import load_task

    bench = Workbench(load_task("digits", []))
    loop, batch = AccuracyEvaluator(bench, axis="loop"), AccuracyEvaluator(bench, axis="batch")
    found: dict[str, Any] = {}
    loop.evaluate(*members(1, 64, epochs)[0])  # compiles
    for size in sizes:
        asked = members(size, 64, epochs)
        begin = time.perf_counter()
        for member in asked:
            loop.evaluate(*member)
        seconds = {"lane by lane": (time.perf_counter() - begin) / size}
        if 1 < size <= batch_axis:
            _together(batch, asked)  # compiles
            begin = time.perf_counter()
            _together(batch, asked)
            seconds["batch axis"] = (time.perf_counter() - begin) / size
        found[str(size)] = seconds
    return found


def _together(evaluator: Any, asked: list[tuple[dict[str, Any], int]]) -> None:
    """Train and score members on the batch axis."""
    evaluator.advance_together(asked)
    for member in asked:
        found = evaluator.evaluate(*member)
        assert found.failure is None, found.failure


def signatures(count: int, each: int, epochs: int) -> dict[str, Any]:
    """Seconds a candidate for so many signatures, compilation included."""
    from paretax.evaluators import AccuracyEvaluator, Workbench
    from paretax.tasks import load_task

    bench = Workbench(load_task("digits", []))
    evaluator = AccuracyEvaluator(bench)
    evaluator.evaluate(*members(1, 8, 1)[0])  # JAX's own start
    begin = time.perf_counter()
    for width in WIDTHS[:count]:
        for member in members(each, width, epochs):
            evaluator.evaluate(*member)
    return {"seconds": (time.perf_counter() - begin) / (count * each)}


def searched(trials: int, folder: str) -> dict[str, Any]:
    """A search, and how many programs it compiled rather than found in the folder."""
    import jax

    from paretax.search import parse_config, plan, run_search

    events = {"/jax/compilation_cache/cache_misses": 0, "/jax/compilation_cache/cache_hits": 0}

    def note(event: str, **_: str | int) -> None:
        if event in events:
            events[event] += 1

    jax.monitoring.register_event_listener(note)
    config = {
        "task": "digits",
        "space": {
            "width": {"type": "ordinal", "choices": [16, 32]},
            "learning_rate": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True},
            "epochs": {"type": "int", "low": 5, "high": 20},
            "sparsity": {"type": "float", "low": 0.0, "high": 0.9, "step": 0.3},
            "quantize": {"type": "categorical", "choices": [False, True]},
            "weight_bits": {"type": "int", "low": 2, "high": 8, "when": {"quantize": True}},
        },
        "objectives": ["accuracy", "size"],
        "budget": {"trials": trials},
        "final_seeds": 0,
        "executor": "inline",
    }
    begin = time.perf_counter()
    run_search(plan(parse_config(config, "the config")), Path(folder) / f"run-{os.getpid()}")
    misses, hits = events.values()
    return {"compiled": misses, "found": hits, "seconds": time.perf_counter() - begin}


def apart(name: str, *arguments: Any, cache: str | None = None) -> dict[str, Any]:
    """One of the above in a fresh process, with a folder for its compiled programs."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--part", name, json.dumps(arguments)]
        environment = {**os.environ, "PARETAX_CACHE": cache or folder}
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--part", nargs=2)
    hidden, rest = parser.parse_known_args()
    if hidden.part:
        from paretax.evaluators.runtime import apply_worker_environment

        apply_worker_environment()
        parts = {"populations": populations, "signatures": signatures, "searched": searched}
        print(json.dumps(parts[hidden.part[0]](*json.loads(hidden.part[1]))))
        return
    sys.argv[1:] = rest
    from reporting import arguments, finish, of_scale, show

    given, began = arguments(__doc__ or ""), time.perf_counter()
    epochs, each, trials = of_scale(given, full=(54, 16, 60), quick=(18, 16, 24), smoke=(1, 1, 1))
    sizes = of_scale(given, full=SIZES, quick=SIZES, smoke=(1, 2))
    counts = of_scale(given, full=COUNTS, quick=COUNTS, smoke=(1,))
    found = apart("populations", sizes, epochs, of_scale(given, full=256, quick=64, smoke=2))
    show("Seconds a candidate", [{"population": s, **found[str(s)]} for s in sizes])
    by_count = {n: apart("signatures", n, each, epochs)["seconds"] for n in counts}
    show(
        f"Seconds a candidate, {each} of each signature, compilation included",
        [{"signatures": n, "seconds": s} for n, s in by_count.items()],
    )
    with tempfile.TemporaryDirectory() as folder:
        runs = [apart("searched", trials, folder, cache=folder) for _ in range(2)]
    show("The same search twice", [{"run": i + 1, **run} for i, run in enumerate(runs)])
    figures = {
        "population": sizes[-1],
        "growth_population": found[str(sizes[-1])]["lane by lane"] / found["1"]["lane by lane"],
        "signatures": counts[-1],
        "growth_signatures": by_count[counts[-1]] / by_count[1],
        "recompilations_second_run": runs[1]["compiled"],
    }
    finish(given, figures, began)


if __name__ == "__main__":
    main()
