"""How fast candidates are scored on six targets: known programs, parts, and from nothing.

- warm: a candidate whose programs are compiled, on six targets: latency, memory, energy, price.
- cold: the digits MLP on six targets, with nothing compiled and the compilers' processes up.
- parts: 1,000 candidates that were never seen, of a space whose parts are known; and how well their
  ranks agree with those of whole programs, on 40 candidates (the worst of the targets).

The peer's side is what a user does without this: a whole compile for each candidate and target.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from reporting import arguments, finish, show
from scipy.stats import spearmanr

from paretax.evaluators import Target, Workbench
from paretax.evaluators.compilers import Compiler, Store, service
from paretax.evaluators.parts import PartsPricer
from paretax.evaluators.target import MODELLED
from paretax.evaluators.targets import TargetsEvaluator
from paretax.spaces import Candidate, Space, parse_space
from paretax.tasks import load_task

TARGETS = ("cpu", "tpu-v5e", "tpu-v6e", "a100", "h100", "aarch64")
SPACE = {
    "channels": {"type": "ordinal", "choices": [8, 16, 24, 32]},
    "depth": {"type": "int", "low": 1, "high": 3},
    "hidden": {"type": "ordinal", "choices": [32, 64, 128, 256]},
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "quantize": {"type": "categorical", "choices": [False, True]},
    "weight_bits": {"type": "int", "low": 2, "high": 8, "when": {"quantize": True}},
    "precision": {
        "type": "categorical",
        "choices": ["float32", "bfloat16"],
        "when": {"quantize": False},
    },
}
QUICK = SPACE | {
    "channels": {"type": "ordinal", "choices": [8, 32]},
    "depth": {"type": "int", "low": 1, "high": 2},
    "hidden": {"type": "ordinal", "choices": [32, 256]},
}
"""Fewer parts to compile; as many candidates, as their learning rates differ."""

BATCH = 32
JUDGED = 40
"""Candidates that are compiled whole to judge the parts."""


def main() -> None:
    """Run both sides and print the tables."""
    given, began = arguments(__doc__ or ""), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        cold = _cold(Path(folder) / "cold")
        compiler = Compiler(Store(Path(folder) / "parts"))
        bench = Workbench(load_task("mnist5k", []))
        targets = _targets(BATCH)
        warm = _warm(bench, targets, compiler, 10 if given.quick else 40)
        space = parse_space(QUICK if given.quick else SPACE)
        parts = _parts(bench, targets, compiler, space)
    whole = parts.pop("seconds a whole candidate")
    ratio = 1000 * whole / parts["parts_s_1000"]
    show(
        "1,000 candidates on six targets, seconds",
        [
            {"by": "parts that are known", "seconds": parts["parts_s_1000"]},
            {"by": "whole compiles (from the mean of 40)", "seconds": 1000 * whole},
            {"by": "ratio", "seconds": ratio},
        ],
    )
    finish(given, {"warm_ms": warm, "cold_s": cold, "targets": len(TARGETS), **parts}, began)


def _targets(batch: int) -> list[Target]:
    return [Target.of(name, batch=batch, measure=False) for name in TARGETS]


def _cold(folder: Path) -> float:
    """Seconds of a first candidate, when the compilers have started and have compiled once."""
    bench = Workbench(load_task("digits", []))
    compiler = Compiler(Store(folder))
    evaluator = TargetsEvaluator(bench, _targets(1), MODELLED, compiler)
    for platform in ("tpu", "cuda"):
        service(platform).start()
    evaluator.evaluate({"width": 8, "depth": 1}, 0)  # the compilers' own first steps
    # Neither does JAX find what it compiled in another run.
    jax.config.update("jax_enable_compilation_cache", False)
    before, start = compiler.compilations, time.perf_counter()
    found = evaluator.evaluate({"width": 64, "depth": 2}, 0)
    seconds = time.perf_counter() - start
    assert found.failure is None, found.failure
    show(
        "The digits MLP (64-64-64-10), nothing compiled, compilers up",
        [
            {
                "target": m.target,
                "compiled in, s": m.seconds,
                "memory, bytes": m.value,
            }
            for m in found.measurements
            if m.objective == "memory"
        ],
    )
    print(f"{compiler.compilations - before} compilations")
    return seconds


def _warm(bench: Workbench, targets: list[Target], compiler: Compiler, count: int) -> float:
    """Milliseconds of a candidate on all targets, its programs compiled and its numbers new."""
    config: dict[str, Any] = {"channels": 8, "depth": 2, "hidden": 64, "quantize": True}
    TargetsEvaluator(bench, targets, MODELLED, compiler).evaluate(config, 0)
    evaluator = TargetsEvaluator(bench, targets, MODELLED, compiler)
    taken, before = [], compiler.compilations
    for i in range(count):
        start = time.perf_counter()
        found = evaluator.evaluate(config | {"weight_bits": 2 + i % 7, "epochs": 1 + i}, 0)
        taken.append(1e3 * (time.perf_counter() - start))
        assert found.failure is None, found.failure
    fresh = []
    for _ in range(3):  # another process of this user: only the disk knows the programs
        again = TargetsEvaluator(bench, targets, MODELLED, Compiler(compiler.store))
        start = time.perf_counter()
        again.evaluate(config, 0)
        fresh.append(1e3 * (time.perf_counter() - start))
    assert compiler.compilations == before
    show(
        "One candidate on six targets, programs compiled before, ms",
        [
            {"case": "first of an evaluator", "ms": taken[0]},
            {"case": "others, median", "ms": float(np.median(taken))},
            {"case": "programs read from disk", "ms": float(np.median(fresh))},
        ],
    )
    return max(float(np.median(taken)), float(np.median(fresh)))


def _parts(
    bench: Workbench, targets: list[Target], compiler: Compiler, space: Space
) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    pricer = PartsPricer(bench, targets, compiler)
    start = time.perf_counter()
    pricer.explore(space, rng)
    _fill(pricer, space, rng)
    pricer.check(_distinct(space, rng, 12))
    known = time.perf_counter() - start
    print(
        f"\nthe space's parts are known after {known:.0f} s, {compiler.compilations} compilations"
    )
    candidates = _distinct(space, rng, 1000)
    compiled, start = compiler.compilations, time.perf_counter()
    pricer.prices(candidates)
    seconds = time.perf_counter() - start
    assert compiler.compilations == compiled, "a part was not known"
    start = time.perf_counter()
    found = pricer.check(candidates[:JUDGED])
    whole = (time.perf_counter() - start) / JUDGED
    rows = []
    for target, pairs in found.items():
        table = np.array(pairs)
        rows.append(
            {
                "target": target,
                "candidates": len(pairs),
                "Spearman": float(spearmanr(table[:, 0], table[:, 1]).statistic),
                "median error": f"{100 * np.median(np.abs(table[:, 0] / table[:, 1] - 1)):.1f}%",
                "whole, us": f"{1e6 * table[:, 1].min():.0f} to {1e6 * table[:, 1].max():.0f}",
            }
        )
    show("Parts against whole programs", rows)
    return {
        "parts_s_1000": seconds,
        "parts_spearman": min(float(row["Spearman"]) for row in rows),
        "seconds a whole candidate": whole,
    }


def _fill(pricer: PartsPricer, space: Space, rng: np.random.Generator) -> None:
    """Until 300 candidates in a row have no part that is new."""
    known = 0
    while known < 300:
        candidate = space.sample(rng)
        known = known + 1 if pricer.knows(candidate) else 0
        if known == 0:
            pricer.learn(candidate)


def _distinct(space: Space, rng: np.random.Generator, count: int) -> Sequence[Candidate]:
    found: dict[str, Candidate] = {}
    while len(found) < count:
        candidate = space.sample(rng)
        found.setdefault(candidate.id, candidate)
    return list(found.values())


if __name__ == "__main__":
    main()
