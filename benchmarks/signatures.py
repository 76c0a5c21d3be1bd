"""What `signatures: 4` costs a search: the front at equal trials, and the share of each choice.

Two spaces over scikit-learn's digits, five seeds each: one full of categorical choices (techniques,
optimisers), and that of `examples/digits.yaml` with short trainings. Each is searched with and
without the line, for accuracy and size. A front counts by its hypervolume, between an error of 1
and 128 KiB, over the logarithm of the size. A choice counts by the least share of trials that any
of its values has, over all seeds.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import moocore
import numpy as np
from reporting import arguments, finish, of_scale, show

from paretax.results import Run
from paretax.search import load_config, parse_config, plan, run_search

LARGEST = 17.0  # log2 of the bytes at the reference point
SIGNATURES = 4
DEMO = Path(__file__).parent.parent / "examples" / "digits.yaml"

TECHNIQUES: dict[str, Any] = {
    "task": "digits",
    "objectives": ["accuracy", "size"],
    "space": {
        "width": {"type": "ordinal", "choices": [16, 32, 64, 128]},
        "depth": {"type": "int", "low": 1, "high": 3},
        "optimizer": {"type": "categorical", "choices": ["adamw", "sgd"]},
        "learning_rate": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True},
        "batch_size": 128,
        "epochs": 2,
        "pruning": {"type": "categorical", "choices": ["one_shot", "gradual"]},
        "channel_sparsity": {"type": "float", "low": 0.0, "high": 0.5, "step": 0.25},
        "quantize": {"type": "categorical", "choices": [False, True]},
        "qat": {
            "type": "categorical",
            "choices": ["none", "ste", "lsq"],
            "when": {"quantize": True},
        },
        "distill": {"type": "categorical", "choices": [False, True]},
    },
    "teacher": {"candidate": {"width": 64, "depth": 1, "epochs": 5, "learning_rate": 0.003}},
    "budget": {"trials": 32},
    "sampler": {"name": "nsga2", "options": {"population": 8}},
    "executor": "inline",
}


def demo(trials: int) -> dict[str, Any]:
    """The space of the demo, with trainings of 2 to 8 epochs."""
    config = load_config(DEMO).model_dump(exclude_defaults=True)
    space = {**config["space"], "epochs": {"type": "int", "low": 2, "high": 8}}
    return {
        **config,
        "space": space,
        "objectives": ["accuracy", "size"],
        "limits": {},
        "budget": {"trials": trials},
        "executor": "inline",
        "workers": None,
    }


def hypervolume(run: Run) -> float:
    """Of the front, from 0 to 1."""
    objectives = run.objectives(run.targets[0])
    losses = np.asarray([t.losses(objectives) for t in run.trials if t.valid])
    points = np.column_stack([1.0 + losses[:, 0], np.log2(losses[:, 1]) / LARGEST])
    return float(moocore.hypervolume(points, ref=[1.0, 1.0]))


def rarest(runs: list[Run], names: list[str]) -> dict[str, float]:
    """The share that the rarest value of each choice has, of the trials that have the choice."""
    found = {}
    for name in names:
        values = [t.candidate[name] for r in runs for t in r.trials if name in t.candidate]
        domain = plan_of(runs[0]).space[name].grid(100)
        counts = Counter(values)
        found[name] = min(counts[v] for v in domain) / max(1, len(values))
    return found


def plan_of(run: Run) -> Any:
    return plan(parse_config(run.header["config"], "the run"), [])


def main() -> None:
    """Search each space with and without, seed by seed."""
    given, began = arguments(__doc__ or ""), time.perf_counter()
    seeds = range(of_scale(given, full=5, quick=2, smoke=1))
    trials = of_scale(given, full=(32, 96), quick=(32, 48), smoke=(2, 2))
    techniques = TECHNIQUES | {"budget": {"trials": trials[0]}}
    spaces = {"techniques": techniques, "demo": demo(trials[1])}
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PARETAX_CACHE"] = str(Path(folder) / "cache")
        for name, config in spaces.items():
            runs: dict[int | None, list[Run]] = {None: [], SIGNATURES: []}
            for seed in seeds:
                for most in runs:
                    settings = {**config, "seed": seed, "signatures": most, "final_seeds": 0}
                    planned = plan(parse_config(settings, name), [])
                    runs[most].append(run_search(planned, Path(folder) / f"{name}{seed}{most}"))
                volumes = {m: hypervolume(r[-1]) for m, r in runs.items()}
                print(name, "seed", seed, "hypervolume", volumes, flush=True)
            means = {m: float(np.mean([hypervolume(r) for r in rs])) for m, rs in runs.items()}
            listed = [p.name for p in plan_of(runs[None][0]).space if p.columns > 1]
            shares = {m: rarest(rs, listed) for m, rs in runs.items()}
            show(
                f"{name}: share of the rarest value",
                [{"choice": n, "without": shares[None][n], "with": shares[4][n]} for n in listed],
            )
            figures |= {
                f"{name}_hypervolume_without": means[None],
                f"{name}_hypervolume_with": means[SIGNATURES],
                f"{name}_rarest_share_without": min(shares[None].values()),
                f"{name}_rarest_share_with": min(shares[SIGNATURES].values()),
            }
    finish(given, figures, began)


if __name__ == "__main__":
    main()
