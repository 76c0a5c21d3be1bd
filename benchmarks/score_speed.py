"""How fast candidates are scored on six targets: known programs, parts, and from nothing.

- warm: a candidate whose programs are compiled, on six targets: latency, memory, energy, price.
- cold: the digits MLP on six targets, with nothing compiled and the compilers' processes up.
- parts: 1,000 candidates that were never seen, of a space whose parts are known, as a search with
  `parts: true` scores them; and how well their ranks agree with those of whole programs, on 40
  candidates (the worst of the targets).

The peer's side is what a user does without parts: a whole compile for each new program and target.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from reporting import arguments, finish, of_scale, show
from scipy.stats import spearmanr

from paretax.evaluators import Target, Workbench
from paretax.evaluators.compilers import Compiler, Store, service
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


@dataclass(frozen=True, kw_only=True)
class Work:
    """How much is done.

    Args:
        targets: one or more for each compiler.
        space: of the candidates whose parts are learned.
        warm: candidates on known programs.
        alike: candidates in a row without a new part, after which all are held to be known.
        candidates: that are priced from parts.
        judged: of these, compiled whole as well.
    """

    targets: Sequence[str]
    space: Any
    warm: int
    alike: int
    candidates: int
    judged: int


WHOLE = Work(targets=TARGETS, space=SPACE, warm=40, alike=300, candidates=1000, judged=40)
SHORT = Work(targets=TARGETS, space=QUICK, warm=10, alike=300, candidates=1000, judged=40)
SMOKE = Work(
    targets=("cpu", "tpu-v5e", "h100", "aarch64"),
    space=QUICK | {"channels": 8, "depth": 1, "hidden": 32},
    warm=2,
    alike=15,
    candidates=10,
    judged=10,
)


def main() -> None:
    """Run both sides and print the tables."""
    given, began = arguments(__doc__ or ""), time.perf_counter()
    work = of_scale(given, full=WHOLE, quick=SHORT, smoke=SMOKE)
    with tempfile.TemporaryDirectory() as folder:
        cold = _cold(work, Path(folder) / "cold")
        compiler = Compiler(Store(Path(folder) / "parts"))
        bench = Workbench(load_task("mnist5k", []))
        warm = _warm(work, bench, compiler)
        parts = _parts(work, bench, compiler, Compiler(Store(Path(folder) / "whole")))
    finish(given, {"cold_s": cold, "targets": len(work.targets), **warm, **parts}, began)


def _targets(work: Work, batch: int, parts: bool = False) -> list[Target]:
    return [Target.of(name, batch=batch, measure=False, parts=parts) for name in work.targets]


def _cold(work: Work, folder: Path) -> float:
    """Seconds of a first candidate, when the compilers have started and have compiled once."""
    bench = Workbench(load_task("digits", []))
    compiler = Compiler(Store(folder))
    evaluator = TargetsEvaluator(bench, _targets(work, 1), MODELLED, compiler)
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


def _warm(work: Work, bench: Workbench, compiler: Compiler) -> dict[str, float]:
    """Milliseconds of a candidate on all targets, its programs compiled and its numbers new."""
    targets = _targets(work, BATCH)
    config: dict[str, Any] = {"channels": 8, "depth": 2, "hidden": 64, "quantize": True}
    TargetsEvaluator(bench, targets, MODELLED, compiler).evaluate(config, 0)
    evaluator = TargetsEvaluator(bench, targets, MODELLED, compiler)
    taken, before = [], compiler.compilations
    for i in range(work.warm):
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
        f"One candidate on {len(targets)} targets, programs compiled before, ms",
        [
            {"case": "first of an evaluator", "ms": taken[0]},
            {"case": "others, median", "ms": float(np.median(taken))},
            {"case": "programs read from disk", "ms": float(np.median(fresh))},
        ],
    )
    known, read = float(np.median(taken)), float(np.median(fresh))
    return {"warm_ms": max(known, read), "warm_memory_ms": known, "warm_disk_ms": read}


def _parts(work: Work, bench: Workbench, compiler: Compiler, another: Compiler) -> dict[str, Any]:
    """Parts by one compiler, and whole programs by another, which has seen none of them."""
    rng, space = np.random.default_rng(0), parse_space(work.space)
    targets = _targets(work, BATCH, parts=True)
    evaluator = TargetsEvaluator(bench, targets, MODELLED, compiler)
    start = time.perf_counter()
    _fill(evaluator, compiler, space, rng, work.alike)
    known = time.perf_counter() - start
    print(f"\nthe parts are known after {known:.0f} s, {compiler.compilations} compilations")
    candidates = _distinct(space, rng, work.candidates)
    compiled, start = compiler.compilations, time.perf_counter()
    scored = [_latencies(evaluator, candidate) for candidate in candidates]
    seconds = time.perf_counter() - start
    assert compiler.compilations == compiled, "a part was not known"
    judge = TargetsEvaluator(bench, targets, MODELLED, another)
    whole = []
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in work.targets}
    for candidate, of_parts in zip(candidates[: work.judged], scored, strict=False):
        compiled, start = another.compilations, time.perf_counter()
        found = {m.target: m.value for m in judge.whole(candidate)}
        if another.compilations > compiled:  # it is like no other so far
            whole.append(time.perf_counter() - start)
        for name, value in found.items():
            pairs[name].append((of_parts[name], value))
    rows = [_agreement(name, np.array(table)) for name, table in pairs.items()]
    show("Parts against whole programs", rows)
    show(
        f"{len(targets)} targets",
        [
            {"what": f"{len(candidates)} candidates from parts that are known", "seconds": seconds},
            {"what": "a whole program that is like no other", "seconds": np.mean(whole)},
        ],
    )
    return {
        "parts_s_1000": 1000 * seconds / len(candidates),
        "parts_spearman": min(float(row["Spearman"]) for row in rows),
        "parts_fill_s": known,
        "whole_s": float(np.mean(whole)),
    }


def _latencies(evaluator: TargetsEvaluator, candidate: Candidate) -> dict[str, float]:
    """Target by target, of a candidate from its parts, in us."""
    found = evaluator.evaluate(candidate, 0)
    assert found.failure is None, found.failure
    latencies = [m for m in found.measurements if m.objective == "latency"]
    assert all("parts" in m.detail for m in latencies), "a compiler refused a part"
    return {str(m.target): m.value for m in latencies}


def _agreement(target: str, table: np.ndarray) -> dict[str, Any]:
    """Of latencies from parts with those of whole programs; both (candidates, 2) in us."""
    return {
        "target": target,
        "candidates": len(table),
        "Spearman": float(spearmanr(table[:, 0], table[:, 1]).statistic),
        "median error": f"{100 * np.median(np.abs(table[:, 0] / table[:, 1] - 1)):.1f}%",
        "whole, us": f"{table[:, 1].min():.0f} to {table[:, 1].max():.0f}",
    }


def _fill(
    evaluator: TargetsEvaluator,
    compiler: Compiler,
    space: Space,
    rng: np.random.Generator,
    alike: int,
) -> None:
    """Score candidates until so many in a row have no part that is new."""
    known = 0
    while known < alike:
        compiled = compiler.compilations
        _latencies(evaluator, space.sample(rng))
        known = known + 1 if compiler.compilations == compiled else 0


def _distinct(space: Space, rng: np.random.Generator, count: int) -> Sequence[Candidate]:
    found: dict[str, Candidate] = {}
    while len(found) < count:
        candidate = space.sample(rng)
        found.setdefault(candidate.id, candidate)
    return list(found.values())


if __name__ == "__main__":
    main()
