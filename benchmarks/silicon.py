"""The latency model held against measurements on devices that are not here, beside simple rules.

Reads every CSV file of a folder (`benchmarks/measured/README.md` has the format; `--data FOLDER`
for measurements of your own), compiles each network for its device, and compares the order of the
modelled latencies with that of the measured ones.

    python benchmarks/silicon.py --quick
    python benchmarks/silicon.py --data my-measurements --json figures.json
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from architectures import named, program
from reporting import ROOT, arguments, finish, of_scale, show
from scipy.stats import kendalltau, spearmanr

from paretax.errors import UsageError
from paretax.evaluators.compilers import CompiledProgram, Compiler
from paretax.evaluators.latency_model.model import LatencyModel
from paretax.hardware_profiles import HardwareProfile, load_profile, profile_names

MEASURED = ROOT / "benchmarks" / "measured"
LEAST = 3
"""Measurements of a device, of which an order says something."""

RULES = ("operations", "bytes", "kernels", "roofline", "compiler")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measurement.

    Args:
        network: see `architectures.named`.
        batch: examples in a call.
        dtype: of weights and inputs.
        seconds: of a call.
        framework: that ran it; of another than JAX only the order counts.
    """

    network: str
    batch: int
    dtype: str
    seconds: float
    framework: str


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A measurement beside what is said of it, in seconds or in what a rule counts.

    Args:
        row: the measurement.
        ours: the model's.
        low: lower end of its interval.
        high: upper end of it.
        rules: what each simple rule counts.
    """

    row: Row
    ours: float
    low: float
    high: float
    rules: Mapping[str, float]


def read(folder: Path) -> dict[tuple[str, str], list[Row]]:
    """The measurements of a folder, by device and by how they were called."""
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise SystemExit(f"silicon.py: {str(folder)!r} has no CSV file: give one with --data")
    for file in files:
        with file.open(encoding="utf-8", newline="") as stream:
            lines = csv.DictReader(stream)
            if missing := _NEEDED - {*(lines.fieldnames or ())}:
                raise SystemExit(f"silicon.py: {file} lacks the column {min(missing)!r}")
            for line in lines:
                if not _is_known(line["network"]):
                    print(f"{file.name}: architectures.py has no {line['network']!r}, left out")
                    continue
                _check(line, f"{file}, line {lines.line_num}")
                device = device_name(line["device"], folder)
                for column, way in (("call_us", "call"), ("queued_us", "queued")):
                    if line.get(column):
                        row = Row(
                            network=line["network"],
                            batch=int(line["batch"]),
                            dtype=line["dtype"],
                            seconds=float(line[column]) * 1e-6,
                            framework=line.get("framework") or "jax",
                        )
                        found[device, way].append(row)
    return found


_NEEDED = {"network", "device", "batch", "dtype", "call_us"}


_DTYPES = ("float32", "bfloat16", "float16")


def _check(line: Mapping[str, str], where: str) -> None:
    """End with a word where a measurement cannot be."""
    if line["dtype"] not in _DTYPES:
        raise SystemExit(f"{where}: `dtype` must be of {', '.join(_DTYPES)}, got {line['dtype']!r}")
    if not line["batch"].isdecimal() or int(line["batch"]) < 1:
        raise SystemExit(f"{where}: `batch` must be a whole number above 0, got {line['batch']!r}")
    for column in ("call_us", "queued_us"):
        text = line.get(column) or "1"
        try:
            fine = 0 < float(text) < float("inf")
        except ValueError:
            fine = False
        if not fine:
            raise SystemExit(f"{where}: `{column}` must be a number above 0, got {text!r}")


def _is_known(network: str) -> bool:
    try:
        named(network)
    except KeyError:
        return False
    return True


def device_name(called: str, folder: Path) -> str:
    """Of a profile, in the folder or of paretax's own; as the device is called, where neither is.

    A maker's name says more than a profile's ("NVIDIA H100 80GB HBM3"): last words are left out.
    """
    words = called.removeprefix("NVIDIA ").lower().replace(" ", "-").split("-")
    for count in range(len(words), 0, -1):
        name = "-".join(words[:count])
        if (folder / f"{name}.yaml").exists() or name in profile_names():
            return name
    return "-".join(words)


def profile_of(device: str, folder: Path) -> HardwareProfile:
    """A device's profile: a file of the folder, or one of paretax's own."""
    own = folder / f"{device}.yaml"
    try:
        return load_profile(str(own) if own.exists() else device)
    except UsageError as error:
        raise SystemExit(f"silicon.py: {error}; or put {own.name} into {folder}") from None


def judge(row: Row, way: str, profile: HardwareProfile, compiler: Compiler) -> Judged:
    """Compile a network, and ask the model and the rules."""
    made = compiler.compile(profile, program(row.network, row.batch, row.dtype))
    found = LatencyModel.of(profile).predict(made)
    ours = found.queued if way == "queued" else found.seconds
    factor = ours / found.seconds
    return Judged(
        row=row,
        ours=ours,
        low=found.low * factor,
        high=found.high * factor,
        rules=_rules(made, profile),
    )


def _rules(made: CompiledProgram, profile: HardwareProfile) -> dict[str, float]:
    operations = float(sum(p.flops for p in made.products))
    moved = float(sum(k.count * k.bytes for k in made.kernels))
    narrow = [p.dtype for p in made.products if p.dtype in profile.peak]
    rate = profile.peak[narrow[0]] if narrow else profile.peak["f32"]
    return {
        "operations": operations,
        "bytes": moved,
        "kernels": float(sum(k.count for k in made.kernels)),
        "roofline": max(operations / rate, moved / profile.main_memory.bandwidth),
        "compiler": made.estimate or 0.0,
    }


def summary(judged: Sequence[Judged]) -> dict[str, float]:
    """The figures of a device."""
    measured = np.array([j.row.seconds for j in judged])
    ours = np.array([j.ours for j in judged])
    foreign = np.array([j.row.framework != "jax" for j in judged])
    level = np.ones(len(judged))  # that of other frameworks is not ours to know
    if foreign.any():
        level[foreign] = np.median((measured / ours)[foreign])
    inside = [
        j.low * by <= j.row.seconds <= j.high * by for j, by in zip(judged, level, strict=True)
    ]
    error = np.abs(ours * level / measured - 1)
    found = {
        "ours": _rank(ours, measured),
        "kendall": float(kendalltau(ours, measured)[0]),
        "median_error": float(np.median(error)),
        "within_10": float(np.mean(error <= 0.1)),
        "coverage": float(np.mean(inside)),
    }
    for rule in RULES:
        counted = np.array([j.rules[rule] for j in judged])
        if (counted > 0).all() and len(set(counted.tolist())) > 1:
            found[rule] = _rank(counted, measured)
    found["best_rule"] = max(found[rule] for rule in RULES if rule in found)
    return found


def _rank(one: np.ndarray, other: np.ndarray) -> float:
    return float(spearmanr(one, other)[0])


def main() -> None:
    """Compile, compare, and print the tables."""
    given, began = arguments(__doc__ or "", extra=_data), time.perf_counter()
    most = of_scale(given, full=1000, quick=16, smoke=2)
    folder: Path = given.data
    compiler = Compiler()
    figures: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    groups = read(folder)
    for (device, way), found in groups.items():
        if len({row.seconds for row in found}) < LEAST:
            print(f"left out {device}, {way}: fewer than {LEAST} different times have no order")
            continue
        profile = profile_of(device, folder)
        judged = []
        for row in _spread(found, most):
            if given.scale == "smoke":  # what compiles soon
                row = replace(row, network="resnet18", batch=len(judged) + 1)
            judged.append(judge(row, way, profile, compiler))
            print(f"{device} {way}: {len(judged)} of {min(most, len(found))}", flush=True)
        name = device if way == "call" else f"{device}-queued"
        told = summary(judged)
        told["networks"] = len(judged)
        figures |= {f"{name}.{k}": told[k] for k in _KEPT}
        rows.append({"device": name, "networks": len(judged), **{k: told.get(k) for k in _COLUMNS}})
    if not rows:
        raise SystemExit(f"silicon.py: no device has {LEAST} different times or more")
    names = [row["device"] for row in rows]
    behind = sum(figures[f"{n}.ours"] < figures[f"{n}.best_rule"] - 0.01 for n in names)
    show("Order (Spearman) and level, by device", rows)
    finish(given, {**figures, "devices": len(rows), "behind": behind}, began)


_KEPT = ("ours", "best_rule", "median_error", "coverage", "networks")
_COLUMNS = ("ours", *RULES, "kendall", "median_error", "within_10", "coverage")


def _data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, default=MEASURED, metavar="FOLDER", help="measurements of your own"
    )


def _spread(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many of them, spread over the file."""
    places = sorted(set(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)))
    return [rows[i] for i in places]


if __name__ == "__main__":
    main()
