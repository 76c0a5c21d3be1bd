"""The Pareto front of a run as a table."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tabulate import tabulate

from paretax.evaluators import Objective, Provenance
from paretax.results.agreement import model_agreement, parts_agreement
from paretax.results.pareto import relative_hypervolume
from paretax.results.run import Run
from paretax.results.trial import Trial
from paretax.spaces.conditions import word

if TYPE_CHECKING:
    import pandas as pd  # takes half a second, which a worker need not spend

Format = Literal["table", "markdown", "csv", "json"]
FORMATS: tuple[Format, ...] = ("table", "markdown", "csv", "json")


def leaderboard(run: Run, target: str | None = None) -> pd.DataFrame:
    """The front of a target, a row a trial, best in the first objective first.

    Columns: `trial`; each objective, then `accuracy (test)` (the metric's name) where it was
    scored; `smaller`, how many times less than the same model dense in float32; then the
    parameters, NaN where one is inactive; `NAME (parameter)` where a figure has its name.
    """
    import pandas as pd

    target = run.target(target)
    objectives = run.objectives(target)
    front = run.front(target)
    if not front:
        return pd.DataFrame(columns=["trial", *(o.name for o in objectives)])
    figures = pd.DataFrame([_figures(trial, objectives) for trial in front])
    rows = [dict(trial.candidate) for trial in front]
    choices = pd.DataFrame(rows)
    for name in choices:  # one column of numbers would make 1 and 1.0 one value
        if len({type(row[name]) for row in rows if name in row}) > 1:
            choices[name] = pd.Series([row.get(name, np.nan) for row in rows], dtype=object)
    choices = choices[[name for name in run.header["config"]["space"] if name in choices]]
    taken = {name: f"{name} (parameter)" for name in choices if name in figures}
    return pd.concat([figures, choices.rename(columns=taken)], axis=1)


def _figures(trial: Trial, objectives: Sequence[Objective]) -> dict[str, Any]:
    row: dict[str, Any] = {"trial": trial.number}
    for objective in objectives:
        row[objective.name] = trial.measured(objective).value
        if trial.test is not None and trial.test.objective == objective.name:
            row[f"{objective.name} (test)"] = trial.test.value
    for m in trial.measurements:
        if m.objective == "size":
            row["smaller"] = m.detail["dense_float32"] / m.value
    return row


def render(run: Run, target: str | None, form: Format) -> str:
    """The leaderboard as text.

    Args:
        run: whose front is shown.
        target: one of the run's; None where it has one alone.
        form: `table` for a terminal, `markdown`, `csv`, or `json`, which is stable for scripts.
    """
    target = run.target(target)
    if form == "json":
        return json.dumps(_plain(run, target), indent=2)
    frame = leaderboard(run, target)
    if form == "csv":
        return frame.to_csv(index=False).rstrip("\n")
    if frame.empty:
        return f"no trial of {str(run.folder)!r} has finished within the limits yet"
    heads = {o.name: heading(run, target, o) for o in run.objectives(target)}
    headers = []
    for column in map(str, frame.columns):
        if form == "markdown":
            headers.append(heads.get(column, column).replace("\n", " "))
        elif column in heads:
            headers.append(heads[column])
        else:
            headers.append(column.replace("_", "\n").replace(" (", "\n("))
    text = tabulate(
        list(zip(*(_cells(list(frame[column])) for column in frame), strict=True)),
        headers,
        tablefmt="pipe" if form == "markdown" else "simple",
        disable_numparse=True,
        colalign=["right"] * len(headers),
    )
    return f"{text}\n\n{caption(run, target)}"


def heading(run: Run, target: str, objective: Objective) -> str:
    """The column's name, unit, and how its values were obtained."""
    found = {str(t.measured(objective).provenance) for t in run.front(target)}
    unit = f"{objective.unit}, " if objective.unit else ""
    return f"{objective.name}\n({unit}{'/'.join(sorted(found))})"


def _cells(values: Sequence[Any]) -> list[str]:
    """A column as a table shows it: as configs write it where 1, 1.0 and "1" would read alike."""
    shown = [cell(value) for value in values]
    if len(set(zip(shown, map(type, values), strict=True))) == len(set(shown)):
        return shown
    return [cell(v) if v is None or v != v else word(v) for v in values]


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if isinstance(value, bool | str):
        return str(value).lower() if isinstance(value, bool) else value
    if value is None or value != value:  # NaN
        return "-"
    if float(value).is_integer():
        return f"{int(value)}"
    return f"{value:.4g}"


def caption(run: Run, target: str) -> str:
    """What the table is of, how many trials there were, and how far models were off."""
    count = {
        "trained": sum(t.valid for t in run.trials),
        "stopped at a rung": sum(t.stopped is not None for t in run.trials),
        "rejected by a limit": sum(t.rejected for t in run.trials),
        "failed": sum(t.failure is not None and not t.rejected for t in run.trials),
    }
    counts = ", ".join(f"{n} {word}" for word, n in count.items() if n or word == "trained")
    settings = next(t for t in run.header["config"]["targets"] if t["name"] == target)
    volume = hypervolume(run, target)
    lines = [
        f"{run.task_name} on {target} (batch {settings['batch']}, "
        f"{_device(run, target)}): {len(run.front(target))} of {len(run.trials)} "
        f"trials on the front; {counts}.",
        *([] if volume is None else [f"Hypervolume {volume:.4f} of the first batch's box."]),
        *_agreements(run, target),
        *(
            f"From trial {first} on, data or code were others ({', '.join(changed)}): trials "
            "before it do not compare with those after."
            for first, changed in run.forced
        ),
        "A metric without (test) is of the validation split; `smaller` compares stored bytes "
        "with the same model dense in float32.",
    ]
    return textwrap.fill(" ".join(lines), 100)


def _device(run: Run, target: str) -> str:
    """What a target's figures are of: the machine that measured, or the device that is modelled."""
    settings = next(t for t in run.header["config"]["targets"] if t["name"] == target)
    if settings.get("accelerator_type") is not None:
        return f"{settings['accelerator_type']} of the cluster"
    found = (m for t in run.trials for m in t.measurements if m.target == target)
    if any(m.provenance is Provenance.MEASURED for m in found):
        return str(run.header["machine"]["processor"])
    return f"{run.header['profiles'][target]['description']}, not measured"


def _agreements(run: Run, target: str) -> list[str]:
    """How far modelled latencies were from better ones."""
    found = {
        "The model of the latency": model_agreement(run, target),
        "The latency from parts": parts_agreement(run, target),
    }
    return [agreement.describe(kind) for kind, agreement in found.items() if agreement is not None]


def hypervolume(run: Run, target: str) -> float | None:
    """The front's hypervolume relative to the first batch; None before that is trained."""
    if target not in run.references:
        return None
    objectives = run.objectives(target)
    losses = [t.losses(objectives) for t in run.front(target)]
    return relative_hypervolume(np.asarray(losses), *run.references[target])


def _plain(run: Run, target: str) -> dict[str, Any]:
    """The stable form for scripts."""
    return {
        "run": str(run.folder),
        "task": run.task_name,
        "target": target,
        "objectives": [o.to_json() for o in run.objectives(target)],
        "hypervolume": hypervolume(run, target),
        "agreement": {
            name: None if found is None else asdict(found)
            for name, found in (
                ("model", model_agreement(run, target)),
                ("parts", parts_agreement(run, target)),
            )
        },
        "trials": len(run.trials),
        "front": [
            {
                "trial": t.number,
                "candidate": dict(t.candidate),
                "measurements": [m.to_json() for m in t.measurements],
                "test": None if t.test is None else t.test.to_json(),
            }
            for t in run.front(target)
        ],
    }
