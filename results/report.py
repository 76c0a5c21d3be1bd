"""A run as one page, to be read in a browser without a network."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretax.errors import UsageError
from paretax.evaluators import Objective
from paretax.results.agreement import Pairs, model_pairs, parts_pairs
from paretax.results.final_scores import final, standard_error
from paretax.results.leaderboard import caption, cell, heading, table_cells
from paretax.results.run import Run
from paretax.results.trial import Trial

if TYPE_CHECKING:
    import plotly.graph_objects as go

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 72rem;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; margin-top: 2.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: 0.25rem 0.7rem; text-align: right; border-bottom: 1px solid #ddd; }
th { vertical-align: bottom; }
.wide { overflow-x: auto; } .plots { display: flex; flex-wrap: wrap; }
"""

_FRONT, _OTHERS = "#0b6bcb", "#b5b5b5"


def write_report(run: Run, out: Path) -> None:
    """Write the page: for each target its front and trials, and how well models agreed.

    Args:
        run: what is shown.
        out: the file; it needs nothing beside it.

    Raises:
        UsageError: the file cannot be written.
    """
    body = "\n".join(line for target in run.targets for line in _target(run, target))
    title = html.escape(f"{run.task_name}: {len(run.trials)} trials")
    page = (
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        f"<style>{_STYLE}</style><script>{_library()}</script></head>\n"
        f"<body><h1>{title}</h1>\n{body}\n{_about(run)}</body></html>\n"
    )
    try:
        out.write_text(page, "utf-8")
    except OSError as error:
        raise UsageError(f"the report {str(out)!r} cannot be written: {error}") from None


def _library() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _target(run: Run, target: str) -> Iterator[str]:
    yield f"<h2>{html.escape(target)}</h2>"
    if not run.front(target):
        yield "<p>No trial has finished within the limits yet.</p>"
        return
    yield f"<p>{html.escape(caption(run, target))}</p><div class='plots'>"
    first, *others = run.objectives(target)
    for other in others:
        yield _embedded(_trade_off(run, target, first, other), f"{target}-{other.name}")
    yield "</div>"
    yield _table(run, target)
    agreements = {
        ("modelled", "measured"): model_pairs(run, target),
        ("from parts", "of the whole program"): parts_pairs(run, target),
    }
    yield "<div class='plots'>"
    for names, pairs in agreements.items():
        if pairs:
            yield _embedded(_agreement(names, pairs), f"{target}-{names[0]}")
    yield "</div>"


def _trade_off(run: Run, target: str, first: Objective, other: Objective) -> go.Figure:
    """All trained trials in two objectives, those of the front on a line."""
    import plotly.graph_objects as go

    front = sorted(run.front(target), key=lambda t: final(t, other).value)
    numbers = {t.number for t in front}
    others = [t for t in run.trials if t.valid and t.number not in numbers]
    figure = go.Figure()
    for name, trials, colour in (("dominated", others, _OTHERS), ("front", front, _FRONT)):
        figure.add_scatter(
            x=[final(t, other).value for t in trials],
            y=[final(t, first).value for t in trials],
            error_x=_bars(trials, other),
            error_y=_bars(trials, first),
            mode="markers",
            name=name,
            marker={"color": colour, "size": 8},
            text=[_hover(t) for t in trials],
            hovertemplate="%{text}<br>%{x}, %{y}<extra></extra>",
        )
    return _laid_out(figure, _axis(run, target, other), _axis(run, target, first))


def _bars(trials: Sequence[Trial], objective: Objective) -> dict[str, Any] | None:
    """One standard error to either side; None where none is known."""
    errors = [standard_error(final(t, objective)) for t in trials]
    if all(error is None for error in errors):
        return None
    return {"type": "data", "array": [error or 0.0 for error in errors], "thickness": 1}


def _axis(run: Run, target: str, objective: Objective) -> str:
    return html.escape(heading(run, target, objective).replace("\n", " "))


def _hover(trial: Trial) -> str:
    lines = [f"{name}: {cell(value)}" for name, value in trial.candidate.items()]
    return "<br>".join(html.escape(line) for line in (f"trial {trial.number}", *lines))


def _agreement(names: tuple[str, str], pairs: Pairs) -> go.Figure:
    """Predicted against found latencies, and the line on which they would be equal."""
    import plotly.graph_objects as go

    predicted, found = zip(*pairs, strict=True)
    ends = [min(*predicted, *found), max(*predicted, *found)]
    figure = go.Figure()
    figure.add_scatter(
        x=ends, y=ends, mode="lines", name="equal", line={"color": _OTHERS, "dash": "dot"}
    )
    figure.add_scatter(
        x=found, y=predicted, mode="markers", name="programs", marker={"color": _FRONT, "size": 8}
    )
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log")
    return _laid_out(figure, f"latency {names[1]} (us)", f"latency {names[0]} (us)")


def _laid_out(figure: go.Figure, across: str, up: str) -> go.Figure:
    figure.update_layout(
        template="plotly_white",
        width=560,
        height=400,
        margin={"l": 70, "r": 20, "t": 20, "b": 60},
        xaxis_title=across,
        yaxis_title=up,
        legend={"orientation": "h", "y": 1.08},
    )
    return figure


def _embedded(figure: go.Figure, name: str) -> str:
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id=_identifier(name)))


def _identifier(name: str) -> str:
    """A plot's place in the page; plotly writes it there as it is, and a name may be markup."""
    plain = re.sub(r"[^\w.@-]", "-", name.replace(" ", "-"), flags=re.ASCII)
    if plain == name.replace(" ", "-"):
        return plain
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"  # another name, another place


def _table(run: Run, target: str) -> str:
    headers, cells = table_cells(run, target)
    head, rows = _row("th", headers), [_row("td", row) for row in cells]
    return f"<div class='wide'><table>{head}{''.join(rows)}</table></div>"


def _row(tag: str, cells: Sequence[Any]) -> str:
    inside = "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells)
    return f"<tr>{inside}</tr>"


def _about(run: Run) -> str:
    machine, versions = run.header["machine"], run.header["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"<p>{html.escape(str(machine['processor']))}; {html.escape(named)}</p>"
