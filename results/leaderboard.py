"""The Pareto front of a run as a table."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tabulate import tabulate

from paretax.errors import printable
from paretax.evaluators import Objective, Provenance
from paretax.results.agreement import model_agreement, parts_agreement
from paretax.results.coverage import left_out, precisions_lost
from paretax.results.final_scores import final, final_losses, standard_error
from paretax.results.gains import baseline_trouble, gain_name, gains, untested
from paretax.results.pareto import relative_hypervolume
from paretax.results.run import Run
from paretax.results.table import WIDTH, plain_table, width_of
from paretax.results.text import in_markdown, in_spreadsheet
from paretax.results.trial import Trial
from paretax.spaces.conditions import word

if TYPE_CHECKING:
    import pandas as pd  # takes half a second, which a worker need not spend

Format = Literal["table", "markdown", "csv", "json"]
_Part = Literal["figures", "parameters"]
_PARTS: tuple[_Part, _Part] = ("figures", "parameters")
FORMATS: tuple[Format, ...] = ("table", "markdown", "csv", "json")


def leaderboard(run: Run, target: str | None = None) -> pd.DataFrame:
    """The front of a target, a row a trial, best in the first objective first.

    Columns: `trial`; each objective, the metric as its mean over further seeds (see `final`) with
    the standard error `accuracy (se)` (the metric's name); then `accuracy (test)` with
    `accuracy (test se)` where it was scored, and the gain over the baseline (see `gains`):
    `faster`, `smaller`, `accuracy gain`; then the parameters, NaN where one is inactive;
    `NAME (parameter)` where a figure has its name.
    """
    import pandas as pd

    target = run.target(target)
    front = run.front(target)
    if not front:
        return pd.DataFrame(columns=["trial", *(o.name for o in run.objectives(target))])
    return pd.concat(_frames(run, target, front), axis=1)


def _frames(run: Run, target: str, trials: Sequence[Trial]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The figures of trials, and their parameters."""
    import pandas as pd

    figures = pd.DataFrame([_figures(run, target, trial) for trial in trials])
    held = run.others_have
    rows = [{**({} if trial.baseline else held), **trial.candidate} for trial in trials]
    choices = pd.DataFrame(rows)
    for name in map(str, choices):  # one column of numbers would make 1 and 1.0 one value
        if len({type(row[name]) for row in rows if name in row}) > 1:
            choices[name] = pd.Series([row.get(name, np.nan) for row in rows], dtype=object)
    names = [*run.header["config"]["space"], *(n for t in trials for n in t.candidate)]
    choices = choices[[name for name in dict.fromkeys(names) if name in choices]]
    taken = {name: f"{name} (parameter)" for name in choices if name in figures}
    return figures, choices.rename(columns=taken)


def _figures(run: Run, target: str, trial: Trial) -> dict[str, Any]:
    row: dict[str, Any] = {"trial": trial.number}
    found = gains(run, target, trial)
    for objective in run.objectives(target):
        name, gain = objective.name, gain_name(objective.name)
        try:
            measured = final(trial, objective)
        except KeyError:  # a baseline that failed
            row[name] = math.nan
            continue
        columns = {name: measured}
        if trial.test is not None and trial.test.objective == name:
            columns[f"{name} (test)"] = trial.test
        elif trial.untested is not None and not objective.known_before_training:
            row[f"{name} (test)"] = math.nan
        for column, measurement in columns.items():
            row[column] = measurement.value
            error = standard_error(measurement)
            if error is not None:
                row[_error_column(column)] = error
        if gain in found:
            row[gain] = found.pop(gain)
    return {**row, **found}


def _error_column(column: str) -> str:
    """Where the standard error of a column stands."""
    return f"{column[:-1]} se)" if column.endswith(")") else f"{column} (se)"


def render(run: Run, target: str | None, form: Format) -> str:
    """The leaderboard as text.

    Args:
        run: whose front is shown.
        target: one of the run's; None where it has one alone.
        form: `table` for a terminal, `markdown`, `csv`, or `json`, which is stable for scripts.
            Control characters in names and values are shown, not obeyed.
    """
    return printable(_rendered(run, run.target(target), form))


def _rendered(run: Run, target: str, form: Format) -> str:
    if form == "json":
        return json.dumps(_plain(run, target), indent=2)
    if form == "csv":
        found = leaderboard(run, target).map(in_spreadsheet).rename(columns=in_spreadsheet)
        return found.to_csv(index=False).rstrip("\n")
    shown = shown_trials(run, target)
    nothing = f"no trial of {str(run.folder)!r} has finished within the limits yet"
    if not shown:
        return nothing
    if form == "markdown":
        headers, rows = table_cells(run, target)
        flat = list(map(in_markdown, headers))
        rows = [list(map(in_markdown, row)) for row in rows]
        right = ["right"] * len(flat)
        text = tabulate(rows, flat, tablefmt="pipe", disable_numparse=True, colalign=right)
    else:
        text = _plain_tables(run, target)
    under = caption(run, target) if run.contenders(target) else nothing
    if form == "markdown":
        under = "\n".join(map(in_markdown, under.split("\n")))
    return f"{text}\n\n{under}"


def _plain_tables(run: Run, target: str) -> str:
    """One table; where that is too wide, the figures, and under them the parameters."""
    headers, rows = table_cells(run, target)
    whole = plain_table([_in_lines(h) for h in headers], rows)
    if width_of(whole) <= WIDTH:
        return whole
    parts: list[str] = []
    for part in _PARTS:
        headers, rows = table_cells(run, target, only=part)
        parts.append(plain_table([_in_lines(h) for h in headers], rows))
    return "\n\n".join(parts)


def _in_lines(header: str) -> str:
    """A header that takes little room across."""
    if "\n" in header:
        return header.replace(", ", ",\n")
    return header.replace("_", "\n").replace(" (", "\n(").replace(" gain", "\ngain")


def shown_trials(run: Run, target: str) -> list[Trial]:
    """The rows of a table: the baseline where it was measured, and the front."""
    front, baseline = run.front(target), run.baseline
    if baseline is None or not baseline.trained or baseline in front:
        return front
    return [baseline, *front]


def table_cells(
    run: Run, target: str, only: _Part | None = None
) -> tuple[list[str], list[list[str]]]:
    """Headers, of several lines, and rows of a table for people.

    Args:
        run: the run.
        target: whose front is shown.
        only: the figures or the parameters alone; None: both.
    """
    trials = shown_trials(run, target)
    frames = _frames(run, target, trials)
    heads = {o.name: heading(run, target, o) for o in run.objectives(target)}
    signed = {gain_name(o.name) for o in run.objectives(target) if not o.known_before_training}
    headers, columns = ["trial"], [[_label(t) for t in trials]]
    for frame in frames if only is None else [frames[_PARTS.index(only)]]:
        for column in map(str, frame.columns):
            figures = frame is frames[0]
            if figures and (column == "trial" or column.endswith(("(se)", " se)"))):
                continue
            headers.append(heads.get(column, column) if figures else column)
            cells, errors = _cells(list(frame[column])), _error_column(column)
            if figures and errors in frame:
                pairs = zip(frame[column], frame[errors], strict=True)
                cells = [_with_error(value, error) for value, error in pairs]
            if figures and column in signed:
                cells = [f"+{c}" if v > 0 else c for v, c in zip(frame[column], cells, strict=True)]
            if figures and column.endswith("(test)"):
                missing = [t.test is None and t.untested is not None for t in trials]
                cells = ["failed" if no else c for no, c in zip(missing, cells, strict=True)]
            columns.append(cells)
    return headers, [list(row) for row in zip(*columns, strict=True)]


def _with_error(value: float, error: float) -> str:
    """A value to the second digit of its standard error; as it is where that is not known."""
    if not error > 0:  # or NaN
        return cell(value)
    places = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{places}f} ± {error:.{places}f}"


def _label(trial: Trial) -> str:
    return f"{trial.number} (baseline)" if trial.baseline else f"{trial.number}"


def heading(run: Run, target: str, objective: Objective) -> str:
    """The column's name, unit, and how its values were obtained."""
    shown = shown_trials(run, target)
    found = {str(t.measured(objective).provenance) for t in shown}
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
        *left_out(run.front(target)),
        *precisions_lost(run.front(target)),
        *(
            f"From trial {first} on, data or code were others ({', '.join(changed)}): trials "
            "before it do not compare with those after."
            for first, changed in run.forced
        ),
        *_seeds(run, target),
        *_against(run, target),
        *untested(run),
    ]
    return textwrap.fill(" ".join(lines), 100)


def _seeds(run: Run, target: str) -> list[str]:
    """What the metric's column holds, and which trials left the front by it."""
    counts = {len(t.repeats) for t in shown_trials(run, target)} - {0}
    own = [str(t.number) for t in shown_trials(run, target) if not t.repeats]
    said = [
        "A metric without (test) is the search's own score on the validation split, by which it "
        "chose."
    ]
    if counts:
        seeds = " to ".join(map(str, sorted({min(counts), max(counts)})))
        shown = shown_trials(run, target)
        scored = any(t.test is not None or t.untested is not None for t in shown)
        test = (
            "(test) is that of the weights that are exported"
            if scored
            else "the test split is scored when the search ends, which this one has not"
        )
        said = [
            f"The metric without (test) is the mean over {seeds} further seeds on the validation "
            f"split; {test}; each ± one standard error."
        ]
        if own:
            said.append(f"Not scored again yet, and so by luck too high: {', '.join(own)}.")
    for t in shown_trials(run, target):
        failed = [r for r in t.repeats if r.failure is not None]
        if failed:
            said.append(
                f"Trial {t.number} failed with {len(failed)} of {len(t.repeats)} further seeds "
                f"({failed[-1].failure.message if failed[-1].failure else ''})."
            )
    left = run.left(target)
    if left:
        words = ", ".join(f"{t.number} ({why})" for t, why in left)
        said.append(f"Off the front once scored with further seeds: {words}.")
    return said


def _against(run: Run, target: str) -> list[str]:
    """What the gains are told against."""
    baseline = run.baseline
    if baseline is None:
        return []
    trouble = baseline_trouble(baseline)
    names = [f"`{name}`" for t in run.front(target)[:1] for name in gains(run, target, t)]
    said = (
        f"{', '.join(names)}: the gain over trial {baseline.number}, the baseline: the user's own "
        "configuration, dense."
    )
    alone = [
        f"{name} {cell(baseline.candidate[name])} (the others {cell(value)})"
        for name, value in run.others_have.items()
        if cell(baseline.candidate[name]) != cell(value)
    ]
    own = f"Of what the space lacks, the baseline has {', '.join(alone)}."
    return [
        *([said] if names else []),
        *([own] if alone else []),
        *([] if trouble is None else [f"But {trouble}."]),
    ]


def _device(run: Run, target: str) -> str:
    """What a target's figures are of: the machine that measured, or the device that is modelled."""
    settings = next(t for t in run.header["config"]["targets"] if t["name"] == target)
    if settings.get("accelerator_type") is not None:
        return f"{settings['accelerator_type']} of the cluster"
    found = [m for t in run.trials for m in t.measurements if m.target == target]
    if any(m.provenance is Provenance.MEASURED for m in found):
        return str(run.header["machine"]["processor"])
    standing = next((m.detail["standing"] for m in found if "standing" in m.detail), "")
    said = f"{run.header['profiles'][target]['description']}, not measured"
    return f"{said}; {standing}" if standing else said


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
    losses = [final_losses(t, objectives) for t in run.front(target)]
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
        "baseline": None if run.baseline is None else _plain_trial(run, target, run.baseline),
        "front": [_plain_trial(run, target, trial) for trial in run.front(target)],
        "left": [
            {**_plain_trial(run, target, trial), "why": why} for trial, why in run.left(target)
        ],
    }


def _plain_final(run: Run, target: str, trial: Trial) -> dict[str, Any] | None:
    """The metric over further seeds; None where there are none."""
    for objective in (*run.objectives(target), *run.limits):
        if not objective.known_before_training and trial.repeats:
            found = final(trial, objective)
            failed = [r.failure.to_json() for r in trial.repeats if r.failure is not None]
            return {**found.to_json(), "failures": failed} if "seeds" in found.detail else None
    return None


def _plain_trial(run: Run, target: str, trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "candidate": dict(trial.candidate),
        "measurements": [m.to_json() for m in trial.measurements],
        "final": _plain_final(run, target, trial),
        "gains": gains(run, target, trial),
        "failure": None if trial.failure is None else trial.failure.to_json(),
        "test": None if trial.test is None else trial.test.to_json(),
        "untested": None if trial.untested is None else trial.untested.to_json(),
    }
