"""How small a network a joint search finds at a dense network's accuracy.

The baseline is the mnist5k CNN, dense, in float32: the teacher of `examples/joint.yaml`, which is
searched as it is. Of the networks on the front that are at least 20 times smaller, the one that is
best on validation data counts; it is exported and verified, and compared on the test split.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reporting import arguments, finish, of_scale, show

from paretax.evaluators import AccuracyEvaluator, Workbench
from paretax.results import export_bundle, verify_bundle
from paretax.search import SearchConfig, load_config, plan, run_search
from paretax.tasks import load_task

CONFIG = Path(__file__).parent.parent / "examples" / "joint.yaml"
SMALLER = 20  # times, at least


def _short(config: SearchConfig, baseline: Mapping[str, Any]) -> tuple[SearchConfig, Any]:
    """One epoch of small networks, in this process, and no limit that they would break."""
    assert config.teacher is not None
    space = {**config.space, "epochs": 1, "channels": 8, "hidden": 64, "schedule": "together"}
    short = {**baseline, "epochs": 1}
    changed = {
        "space": space,
        "teacher": config.teacher.model_copy(update={"candidate": short}),
        "limits": {},
        "executor": "inline",
    }
    return config.model_copy(update=changed), short


def main() -> None:
    """Search, choose, export, verify, compare."""
    given, began = arguments(__doc__ or ""), time.perf_counter()
    config = load_config(CONFIG)
    trials = of_scale(given, full=config.budget.trials, quick=24, smoke=2)
    config = config.model_copy(
        update={"budget": config.budget.model_copy(update={"trials": trials})}
    )
    assert config.teacher is not None
    baseline: dict[str, Any] = dict(config.teacher.candidate or {})
    smaller = of_scale(given, full=SMALLER, quick=SMALLER, smoke=0)
    if given.scale == "smoke":
        config, baseline = _short(config, baseline)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PARETAX_CACHE"] = folder  # nothing from earlier runs
        run = run_search(plan(config, [CONFIG.parent]), Path(folder) / "run")
        bench = Workbench(load_task(config.task, []))
        evaluator = AccuracyEvaluator(bench)
        dense = evaluator.train(baseline, 0)
        validation = evaluator.score(baseline, dense, bench.data.validation)
        test = evaluator.score(baseline, dense, bench.data.test)
        (accuracy,) = [o for o in run.objectives("cpu") if o.name == "accuracy"]
        (size,) = [o for o in run.objectives("cpu") if o.name == "size"]
        bytes_dense = 4 * sum(s.size for s in bench.prepared(baseline).params.values())
        small = [t for t in run.front("cpu") if smaller * t.measured(size).value <= bytes_dense]
        if not small:
            raise SystemExit(f"no network of the front is {smaller} times smaller")
        chosen = max(small, key=lambda t: (t.measured(accuracy).value, -t.measured(size).value))
        bundle = Path(folder) / "bundle"
        export_bundle(run, chosen, "cpu", bundle)
        verified = verify_bundle(bundle)
        steps = chosen.measured(accuracy).detail["steps"]
        own_dense = chosen.measured(size).detail["dense"]
    show(
        f"{len(run.trials)} candidates, {len(run.front('cpu'))} on the front",
        [
            {
                "network": "dense float32",
                "bytes": bytes_dense,
                "validation": validation,
                "test": test,
            },
            {
                "network": f"trial {chosen.number}, verified",
                "bytes": verified.size,
                "validation": chosen.measured(accuracy).value,
                "test": verified.value,
            },
        ],
    )
    print(f"dense in float32, that network has {own_dense} bytes")
    print("what was done to it, in order:", *(f"\n  {i}. {s}" for i, s in enumerate(steps, 1)))
    figures = {
        "size_ratio": bytes_dense / verified.size,
        "bytes": verified.size,
        "dense_bytes": bytes_dense,
        "candidates": len(run.trials),
        "accuracy_drop_points": 100 * (test - verified.value),
    }
    finish(given, figures, began)


if __name__ == "__main__":
    main()
