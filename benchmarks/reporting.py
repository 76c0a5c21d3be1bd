"""What the benchmarks share: arguments, tables, and the file of figures."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from paretax.evaluators.runtime import apply_worker_environment, machine, versions


def arguments(about: str) -> argparse.Namespace:
    """`--json FILE` and `--quick`; also settles how XLA computes, before JAX first does."""
    apply_worker_environment()
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--quick", action="store_true", help="the same figures from less work")
    return parser.parse_args()


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table."""
    print(f"\n{title}")
    print(tabulate(list(rows), headers="keys", floatfmt=".4g"), flush=True)


def finish(given: argparse.Namespace, figures: Mapping[str, float], began: float) -> None:
    """Print the figures, and write them where they are asked for."""
    show("Figures", [{"name": n, "value": v} for n, v in figures.items()])
    about = {"jax": versions()["jax"], "processor": machine()["processor"]}
    how = "quick" if given.quick else "full"
    print(f"{how} run in {time.perf_counter() - began:.0f} s on {about}")
    if given.json is not None:
        given.json.write_text(json.dumps(dict(figures), indent=2) + "\n", "utf-8")
