"""`paretax score`: models on targets, in a table; no search."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paretax.cli.failing import failing_on
from paretax.cli.saying import say
from paretax.cli.searching import TableFormat
from paretax.errors import UsageError

if TYPE_CHECKING:
    from paretax.evaluators import Evaluation, Measurement
    from paretax.tasks import Task

FormatOption = Annotated[
    TableFormat, typer.Option("--format", help="json: an object, or a list of several; stable.")
]


class Precision(StrEnum):
    """In which numbers a model is deployed."""

    f32 = "f32"
    bf16 = "bf16"
    w8a8 = "w8a8"
    w4a8 = "w4a8"


_SETTINGS: dict[Precision, dict[str, Any]] = {
    Precision.f32: {"precision": "float32"},
    Precision.bf16: {"precision": "bfloat16"},
    Precision.w8a8: {"quantize": True, "weight_bits": 8, "activation_bits": 8},
    Precision.w4a8: {"quantize": True, "weight_bits": 4, "activation_bits": 8},
}


def score(
    tasks: Annotated[list[str], typer.Argument(help="Built-in tasks, or module:attribute.")],
    target: Annotated[
        list[str],
        typer.Option(help="Hardware profiles, by name or path; repeated, or with commas between."),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Parameters, such as width=32; repeated, or with commas between."
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="f32, bf16, w8a8, w4a8; repeated, or with commas between."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Examples in one call.")] = 1,
    form: FormatOption = TableFormat.table,
) -> None:
    """Score models on targets: latency, memory, energy, price, CO2, size. Nothing is trained."""
    from paretax.evaluators.runtime import apply_worker_environment

    apply_worker_environment()
    from paretax.cli.progress import telling
    from paretax.evaluators import Target

    targets = tuple(Target.of(name, batch=batch) for name in _split(target))
    chosen = _chosen(settings or [])
    named = [_precision(text) for text in _split(precision or [])]
    _check_told_once([t.profile.name for t in targets], chosen, named)
    forms: list[Precision | None] = [*named] or [None]
    with telling():
        rows = [
            (name, form_, _score(name, chosen | (_SETTINGS[form_] if form_ else {}), targets))
            for name in tasks
            for form_ in forms
        ]
    if form is TableFormat.json:
        plain = [
            {
                "task": name,
                "precision": form_,
                "candidate": candidate,
                "measurements": [m.to_json() for m in found.measurements],
                "failure": found.failure.to_json() if found.failure else None,
            }
            for name, form_, (candidate, found) in rows
        ]
        say(json.dumps(plain[0] if len(plain) == 1 else plain, indent=2))
    else:
        for name, form_, (candidate, found) in rows:
            _show(name, form_, candidate, found)
    failed = [(n, e.failure) for n, _, (_, e) in rows if e.failure is not None]
    if failed:
        with failing_on(RuntimeError):
            name, failure = failed[0]
            assert failure is not None
            raise RuntimeError(f"{name}: {failure.reason}: {failure.message}")


def _check_told_once(targets: list[str], chosen: dict[str, Any], named: list[Precision]) -> None:
    """Refuse two devices of one name, and a setting that `--precision` would overwrite."""
    for name in targets:
        if targets.count(name) > 1:
            raise UsageError(
                f"two targets must not share a name, got {name!r} twice: name one of them "
                "otherwise, by `name` in its profile"
            )
    for form in named:
        for setting in sorted(_SETTINGS[form].keys() & chosen.keys()):
            raise UsageError(
                f"--precision {form} sets {setting}, which --set gives as "
                f"{chosen[setting]!r}: leave out one of the two"
            )


def _score(
    task: str, chosen: dict[str, Any], targets: tuple[Any, ...]
) -> tuple[dict[str, Any], Evaluation]:
    from paretax.evaluators.objectives import COST_NAMES
    from paretax.search.worker import Worker, WorkerSpec
    from paretax.spaces import Candidate
    from paretax.tasks import load_task

    candidate = candidate_of(load_task(task, [Path.cwd()]), chosen)
    spec = WorkerSpec(task=task, search_path=(str(Path.cwd()),), targets=targets, wanted=COST_NAMES)
    return candidate, Worker(spec).score(Candidate(candidate), seed=0)


def candidate_of(task: Task, chosen: dict[str, Any]) -> dict[str, Any]:
    """The defaults of a task, with some parameters given another value.

    Raises:
        UsageError: nobody reads a parameter, or it has no such value.
    """
    from paretax.evaluators import Workbench
    from paretax.spaces import SETTINGS, check_space, parse_space
    from paretax.spaces.coverage import check_precision
    from paretax.spaces.rules import setting_of

    scalars = {n: v for n, v in task.defaults.items() if isinstance(v, bool | int | float | str)}
    candidate: dict[str, Any] = scalars | chosen
    if candidate:
        check_space(parse_space(candidate), SETTINGS, task.defaults, task.name)
    if any(setting_of(name) == "precision" for name in candidate):
        check_precision([candidate], [Workbench(task).prepared(candidate).sites])
    return candidate


_COLUMNS = {
    "latency": "latency, us",
    "throughput": "examples/s",
    "memory": "memory, KiB",
    "energy": "energy, mJ",
    "price": "USD/1M",
    "co2": "CO2, g/1M",
}


def _show(task: str, form: Precision | None, candidate: dict[str, Any], found: Evaluation) -> None:
    """One row a target; a letter says how a number was obtained."""
    from tabulate import tabulate

    say(f"{task}{f' in {form}' if form else ''}: {_described(candidate)}")
    by_target: dict[str, dict[str, Measurement]] = {}
    for m in found.measurements:
        by_target.setdefault(m.target or "", {})[m.objective] = m
    size = by_target.pop("", {}).get("size")
    rows = [
        [target, *(_cell(values.get(name)) for name in _COLUMNS), _limited(values["latency"])]
        for target, values in by_target.items()
    ]
    if not rows:
        return  # why is said below
    heads = ["target", *_COLUMNS.values(), "limited by"]
    right = ("left", *["right"] * len(_COLUMNS), "left")
    say(tabulate(rows, heads, tablefmt="simple", disable_numparse=True, colalign=right))
    batch = next((m.detail["batch"] for m in found.measurements if "batch" in m.detail), 1)
    if size is not None:
        say(f"size {size.value / 1024:.1f} KiB ({size.provenance}), batch {batch}")
    say("m measured, c compiled for the target, e estimated by the model (80% interval)")
    for standing, names in _standings(by_target).items():
        say(f"{', '.join(names)}: {standing}")
    say("")


def _standings(by_target: dict[str, dict[str, Measurement]]) -> dict[str, list[str]]:
    """What modelled latencies rest on, with the targets of each."""
    found: dict[str, list[str]] = {}
    for target, values in by_target.items():
        standing = values["latency"].detail.get("standing") if "latency" in values else None
        if standing:
            found.setdefault(standing, []).append(target)
    return found


def _described(candidate: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in candidate.items())


_LETTERS = {"measured": "m", "compiled": "c", "modelled": "e"}


def _cell(found: Measurement | None) -> str:
    if found is None:
        return "-"
    value = found.value / 1024 if found.objective == "memory" else found.value
    shown = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    if found.objective == "latency" and "interval" in found.detail:
        low, high = found.detail["interval"]
        shown += f" ({low:.3g}-{high:.3g})"
    return f"{shown} {_LETTERS[found.provenance]}"


def _limited(latency: Measurement) -> str:
    limits = latency.detail.get("limited_by", {})
    if not limits:
        return ""
    name = max(limits, key=limits.__getitem__)
    kernels = latency.detail.get("kernels")
    some = f" ({kernels} kernels)" if name == "launches" and kernels is not None else ""
    return f"{name} {100 * limits[name]:.0f}%{some}"


def _split(texts: list[str]) -> list[str]:
    return [part for text in texts for part in text.split(",") if part]


def _precision(text: str) -> Precision:
    from paretax.errors import unknown

    if text not in list(Precision):
        raise unknown("precision", text, list(Precision))
    return Precision(text)


def _chosen(texts: list[str]) -> dict[str, Any]:
    """Parameters from `--set`; a comma ends one where a name and = follow."""
    found: dict[str, Any] = {}
    for text in texts:
        for part in re.split(r",(?=\s*[^\W\d][^=,'\"]*=)", text):
            name, value = _setting(part)
            if name in found:
                raise UsageError(f"--set must give each parameter once, got {name!r} twice")
            found[name] = value
    return found


def _setting(text: str) -> tuple[str, Any]:
    from paretax.plain import read_yaml

    name, equals, value = text.strip().partition("=")
    parsed = read_yaml(value, f"--set {name}") if equals and name else None
    unquoted = isinstance(parsed, str) and "," in parsed and value.strip()[:1] not in ("'", '"')
    if not isinstance(parsed, bool | int | float | str) or unquoted:
        raise UsageError(
            f"--set must be like width=32, or width=32,depth=1, with quotes around a text that "
            f"holds a comma, got {text!r}"
        )
    return name, parsed
