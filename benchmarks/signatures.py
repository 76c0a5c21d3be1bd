"""What `signatures: 4` costs a search: the front at equal trials, and the share of each choice.

Two spaces over scikit-learn's digits, five seeds each: one full of categorical choices (techniques,
optimisers), and that of `examples/digits.yaml` with short trainings. Each is searched with and
without the line, for accuracy and size. A front counts by its hypervolume, between an error of 1
and 128 KiB, over the logarithm of the size; what the line costs is the mean over seeds of the
difference, with its standard error. What it saves is counted in sets of programs. A choice counts
by the least share of trials that any of its values has, over all seeds.
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
from paretax.spaces import BY_NAME, signature

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


def sets(run: Run) -> int:
    """Of programs that a search compiled."""
    return len({signature(t.candidate, BY_NAME) for t in run.trials})


def rarest(runs: list[Run]) -> dict[str, float]:
    """The share that the rarest value of each choice has, of the trials that have the choice."""
    found = {}
    for parameter in plan_of(runs[0]).space:
        if parameter.columns > 1:
            name = parameter.name
            values = [t.candidate[name] for r in runs for t in r.trials if name in t.candidate]
            counts = Counter(values)
            found[name] = min(counts[v] for v in parameter.grid(100)) / max(1, len(values))
    return found


def plan_of(run: Run) -> Any:
    return plan(parse_config(run.header["config"], "the run"), [])


def searched(name: str, config: dict[str, Any], seed: int, most: int | None, folder: Path) -> Run:
    """One search, without the final seeds: a front counts by its own scores."""
    settings = {**config, "seed": seed, "signatures": most, "final_seeds": 0}
    return run_search(plan(parse_config(settings, name), []), folder / f"{name}{seed}{most}")


def compared(name: str, without: list[Run], with_: list[Run]) -> dict[str, float]:
    """Both sides, seed by seed and in the mean."""
    volumes = np.asarray([[hypervolume(r) for r in runs] for runs in (without, with_)])
    counts = np.asarray([[sets(r) for r in runs] for runs in (without, with_)])
    by_seed = zip(volumes.T.tolist(), counts.T.tolist(), strict=True)
    show(
        f"{name}: hypervolume, and sets of programs",
        [
            {"seed": i, "without": v[0], "with": v[1], "sets without": c[0], "sets with": c[1]}
            for i, (v, c) in enumerate(by_seed)
        ],
    )
    shares = rarest(without), rarest(with_)
    show(
        f"{name}: share of the rarest value",
        [{"choice": n, "without": s, "with": shares[1][n]} for n, s in shares[0].items()],
    )
    differences = volumes[1] - volumes[0]
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    print(f"{name}: with less without {differences.mean():+.4f}, standard error {error:.4f}")
    return {
        f"{name}_hypervolume_without": float(volumes[0].mean()),
        f"{name}_hypervolume_with": float(volumes[1].mean()),
        f"{name}_difference": float(differences.mean()),
        f"{name}_difference_error": float(error),
        f"{name}_sets_without": float(counts[0].mean()),
        f"{name}_sets_with": float(counts[1].mean()),
        f"{name}_rarest_share_without": min(shares[0].values()),
        f"{name}_rarest_share_with": min(shares[1].values()),
    }


def main() -> None:
    """Search each space with and without, seed by seed."""
    given, began = arguments(__doc__ or ""), time.perf_counter()
    seeds = range(of_scale(given, full=5, quick=3, smoke=2))
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
                    runs[most].append(searched(name, config, seed, most, Path(folder)))
                latest = {m: round(hypervolume(r[-1]), 4) for m, r in runs.items()}
                print(name, "seed", seed, "hypervolume", latest, flush=True)
            figures |= compared(name, runs[None], runs[SIGNATURES])
    finish(given, figures, began)


if __name__ == "__main__":
    main()
