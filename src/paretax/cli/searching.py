"""`paretax search` and `paretax space`. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
import shlex
import time
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paretax.cli.failing import ended_once, failing_on, leave, refused_by_the_system
from paretax.cli.saying import say

if TYPE_CHECKING:
    from paretax.results import Run

ConfigArgument = Annotated[Path, typer.Argument(help="The search, as a YAML file.")]


class TableFormat(StrEnum):
    """For people or for scripts."""

    table = "table"
    json = "json"


def search(
    config: ConfigArgument,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run.", show_default="runs/<config's name>")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Candidates in all, instead of the config's number.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes, instead of the config's number.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help='Ray cluster to use; "auto" finds a running one.')
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run that is in the folder.")] = False,
    force_data: Annotated[
        bool, typer.Option("--force-data", help="Go on although data or task code are others.")
    ] = False,
) -> None:
    """Search until the budget is spent, then score the final front on the test split."""
    from paretax.cli.progress import Bar
    from paretax.evaluators.runtime import apply_worker_environment
    from paretax.results import Run
    from paretax.results.journal import has_events
    from paretax.search import SearchError, load_config, plan, run_search

    apply_worker_environment()
    settings = load_config(config)
    if trials is not None:
        budget = settings.budget.model_copy(update={"trials": trials})
        settings = settings.model_copy(update={"budget": budget})
    if workers is not None:
        settings = settings.model_copy(update={"workers": workers})
    checked = plan(settings, [config.resolve().parent, Path.cwd()])
    folder = out or Path("runs") / config.stem
    if resume and has_events(folder) and Run.open(folder).fingerprint() is None:
        say(
            "note: this run is of an earlier version, which kept no fingerprint of data and code: "
            "that they are the same cannot be checked",
            error=True,
        )
    start = time.monotonic()
    try:
        with ended_once(), failing_on(SearchError), Bar() as bar:
            run = run_search(
                checked,
                folder,
                resume=resume,
                force_data=force_data,
                address=address,
                progress=bar,
            )
    except (KeyboardInterrupt, OSError) as error:
        words = ["paretax", "search", str(config), "--out", str(folder)]
        for option, value in (("trials", trials), ("workers", workers), ("address", address)):
            words += [] if value is None else [f"--{option}", str(value)]
        started = (folder / "journal.jsonl").exists()
        words += ["--resume"] if started else []
        kept = "nothing measured is lost" if started else "nothing was measured yet"
        why = f"failed: {refused_by_the_system(error)}" if isinstance(error, OSError) else "stopped"
        with suppress(OSError):  # the terminal may be gone
            say(f"{why}; {kept}. Go on with: {shlex.join(words)}", error=True, flush=True)
        if isinstance(error, OSError):
            raise typer.Exit(1) from error
        leave(error)
    from paretax.results.gains import closing_words

    fronts = ", ".join(f"{len(run.front(t))} on the front of {t}" for t in run.targets)
    rejected = sum(t.rejected for t in run.trials)
    failed = sum(t.failure is not None for t in run.trials) - rejected
    stopped = sum(t.stopped is not None for t in run.trials)
    early = f", {stopped} stopped at a rung" if stopped else ""
    why = f" (tracebacks: {folder / 'failures'})" if (folder / "failures").is_dir() else ""
    say(
        f"{len(run.trials)} trials in {time.monotonic() - start:.0f} s: {fronts}, "
        f"{rejected} rejected, {failed} failed{why}{early}.\nRead it with: {_commands(run)}"
    )
    for said in closing_words(run):
        say(said)


def _commands(run: Run) -> str:
    """What shows the leaderboard of each target."""
    plain = ["paretax", "leaderboard", str(run.folder)]
    if len(run.targets) == 1:
        return shlex.join(plain)
    return "".join(f"\n  {shlex.join([*plain, '--target', name])}" for name in run.targets)


def space(
    config: ConfigArgument,
    form: Annotated[
        TableFormat, typer.Option("--format", help="For people or for scripts.")
    ] = TableFormat.table,
) -> None:
    """Show the joint space: its parameters, conditions and size."""
    from tabulate import tabulate

    from paretax.search import load_config, plan
    from paretax.spaces import Clause, dimension_of, dump_space

    settings = load_config(config)
    checked = plan(settings, [config.resolve().parent, Path.cwd()])
    joint = checked.space
    size = joint.size()
    if form is TableFormat.json:
        parameters, forbidden = dump_space(joint)
        plain: dict[str, Any] = {
            "space": parameters,
            "forbidden": forbidden,
            "size": {
                "combinations": size.combinations,
                "exact": size.exact,
                "continuous": size.continuous,
            },
        }
        say(json.dumps(plain, indent=2))
        return
    rows = [
        (
            p.name,
            dimension_of(p.name) or f"model ({settings.task})",
            p.describe(),
            p.when.describe() if isinstance(p.when, Clause) else "always",
        )
        for p in joint
    ]
    say(tabulate(rows, ["parameter", "read by", "values", "exists when"], tablefmt="simple"))
    for clause in joint.forbidden:
        say(f"forbidden: {clause.describe()}")
    say(f"\n{len(joint)} parameters, {size.describe()}.")
