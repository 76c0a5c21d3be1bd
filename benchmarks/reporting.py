"""What the benchmarks share: arguments, tables, and the files of figures."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from tabulate import tabulate

from paretax.evaluators.runtime import apply_worker_environment, machine, versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
"""One record a script, from which the README's figures are written."""

MISSING = 3
"""The exit status of a script whose peer is not installed."""

Value = TypeVar("Value")


def arguments(
    about: str,
    only: Sequence[str] = (),
    extra: Callable[[argparse.ArgumentParser], None] | None = None,
) -> argparse.Namespace:
    """How much is to be done, and where the figures go.

    Also settles how XLA computes, before JAX first does.

    Args:
        about: the script, for `--help`.
        only: the names of its parts, where one may ask for some of them.
        extra: adds arguments of its own.

    Returns:
        `scale` ("full", "quick" or "smoke"), `json` (a path or None), `record` (a bool), and
        `parts`, those that are asked for.
    """
    apply_worker_environment()
    parser = argparse.ArgumentParser(description=about)
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument(
        "--quick", dest="scale", action="store_const", const="quick",
        help="the same figures from less work",
    )  # fmt: skip
    scale.add_argument(
        "--smoke", dest="scale", action="store_const", const="smoke",
        help="all of the code in seconds; the figures say nothing",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument(
        "--record", action="store_true", help="keep the figures in benchmarks/results as well"
    )
    if only:
        parser.add_argument("--only", metavar="PARTS", help=f"some of: {', '.join(only)}")
    if extra is not None:
        extra(parser)
    parser.set_defaults(scale="full", only=None)
    given = parser.parse_args()
    given.parts = [*only] if given.only is None else given.only.split(",")
    if unknown := sorted({*given.parts} - {*only}):
        parser.error(f"there is no part {unknown[0]!r}: {', '.join(only)}")
    if given.record and given.only is not None:
        parser.error("--record keeps all figures: leave out --only")
    if given.record:
        if given.scale == "smoke":
            parser.error("--record keeps figures, and a smoke run has none: leave out --smoke")
        _check_committed()
    return given


def of_scale(given: argparse.Namespace, *, full: Value, quick: Value, smoke: Value) -> Value:
    """What stands for the amount of work that was asked for."""
    chosen: Value = {"full": full, "quick": quick, "smoke": smoke}[given.scale]
    return chosen


def need(*modules: str) -> None:
    """End with a word where a peer's package is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        names, script = ", ".join(missing), Path(sys.argv[0]).name
        print(f"{script} needs {names}: pip install -e '.[benchmarks]'", file=sys.stderr)
        raise SystemExit(MISSING)


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table."""
    print(f"\n{title}")
    print(tabulate(list(rows), headers="keys", floatfmt=".4g"), flush=True)


def finish(
    given: argparse.Namespace,
    figures: Mapping[str, float],
    began: float,
    peers: Sequence[str] = (),
) -> None:
    """Print the figures, and write them where they are asked for.

    Args:
        given: the arguments.
        figures: by name.
        began: by `time.perf_counter`.
        peers: packages that were compared with, whose versions a record names.
    """
    seconds = time.perf_counter() - began
    show("Figures", [{"name": n, "value": v} for n, v in figures.items()])
    about = {"jax": versions()["jax"], "processor": machine()["processor"]}
    print(f"{given.scale} run in {seconds:.0f} s on {about}")
    if given.json is not None:
        _write(given.json, dict(figures))
    if given.record:
        RESULTS.mkdir(exist_ok=True)
        name = Path(sys.argv[0]).stem
        _write(RESULTS / f"{name}.json", record(name, given.scale, figures, seconds, peers))


def record(
    name: str, scale: str, figures: Mapping[str, float], seconds: float, peers: Sequence[str] = ()
) -> dict[str, Any]:
    """The figures of a run with all that it takes to run it again."""
    here = machine()
    return {
        "command": f"python benchmarks/{name}.py" + ("" if scale == "full" else f" --{scale}"),
        "commit": _git("rev-parse", "HEAD"),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seconds": round(seconds),
        "machine": {"processor": here["processor"], "cores": here["cores"]},
        "versions": versions() | {peer: version(peer) for peer in peers},
        "figures": dict(figures),
    }


def _check_committed() -> None:
    """A record names a commit, so that must be what runs."""
    changed = _git(
        "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results",
        ":!README.md",
    )  # fmt: skip
    if changed:
        raise SystemExit(f"--record names a commit, and these files differ from it:\n{changed}")


def _git(*command: str) -> str:
    done = subprocess.run(
        ["git", *command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.rstrip()


def _write(file: Path, plain: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(plain, indent=2) + "\n", "utf-8")
