"""Commands on a finished run or a bundle."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from paretax.cli.failing import failing_on
from paretax.cli.saying import say

RunArgument = Annotated[Path, typer.Argument(help="Folder of a run.")]
ForceOption = Annotated[
    bool, typer.Option("--force-data", help="Go on although data or task code are others.")
]
TaskOption = Annotated[
    str | None,
    typer.Option(help="module:attribute of the task, where it is code of your own."),
]
TaskPathOption = Annotated[
    Path | None,
    typer.Option("--task-path", help="Folder of the module of the task, where it is your own."),
]


class Format(StrEnum):
    """How the leaderboard is written."""

    table = "table"
    markdown = "markdown"
    csv = "csv"
    json = "json"


def leaderboard(
    run: RunArgument,
    target: Annotated[
        str | None, typer.Option(help="One of the run's targets; needed where it has several.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="json is stable.")] = Format.table,
) -> None:
    """Show the Pareto front of a run."""
    from paretax.results.leaderboard import render
    from paretax.results.run import Run

    say(render(Run.open(run), target, form.value))


def report(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("report.html"),
) -> None:
    """Write a run as one page: fronts, trials, and how well modelled figures agreed."""
    from paretax.results.report import write_report
    from paretax.results.run import Run

    write_report(Run.open(run), out)
    say(f"wrote {out}")


def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle.")],
    target: Annotated[
        str | None, typer.Option(help="One of the run's targets; needed where it has several.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help='A bound on the validation figures, such as "accuracy>=0.97".'),
    ] = None,
    pick: Annotated[
        str, typer.Option(help="knee (nearest to the best of everything) or best:OBJECTIVE.")
    ] = "knee",
    force_data: ForceOption = False,
    task: TaskOption = None,
    task_path: TaskPathOption = None,
) -> None:
    """Write one point of the front as a bundle that can be deployed."""
    from paretax.evaluators.runtime import apply_worker_environment

    apply_worker_environment()
    from paretax.results import ExportError, NotReproducedError, Run, choose, export_bundle
    from paretax.results.manifest import digest

    opened = Run.open(run)
    _name(opened.task_name, task, task_path, run)
    device = opened.target(target)
    choice = choose(opened, device, where or [], pick)
    trial, alike = choice.trial, choice.describe()
    with failing_on(ExportError, NotReproducedError):
        manifest = export_bundle(opened, trial, device, out, force_data=force_data)
    test = manifest["test"]
    say(
        f"exported trial {trial.number} to {out}: {test['objective']} {test['value']:.4f} on the "
        f"test split (measured through the exported program), "
        f"{manifest['weights']['bytes']} bytes of weights"
    )
    say(f"digest {digest(out)}: `paretax verify --expect` refuses a bundle of any other")
    if alike is not None:
        say(alike)


def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    task: TaskOption = None,
    task_path: Annotated[
        Path | None,
        typer.Option(
            "--task-path", "--path", help="Folder of the module of the task, where it is your own."
        ),
    ] = None,
    expect: Annotated[
        str | None, typer.Option(help="Refuse every bundle but that with this digest.")
    ] = None,
) -> None:
    """Check a bundle's files, and its score on the test split, without the run."""
    from paretax.evaluators.runtime import apply_worker_environment

    apply_worker_environment()
    from paretax.results import BrokenBundleError, verify_bundle
    from paretax.results.manifest import read_manifest

    with failing_on(BrokenBundleError):
        if task or task_path:
            _name(str(read_manifest(bundle)["task"]), task, task_path, bundle)
        found = verify_bundle(bundle, expect=expect)
    held = f"verified {bundle}: {found.files} files match their checksums"
    if found.value is None:
        say(
            f"{held}, and {found.size} bytes of weights are as the manifest says; the score was "
            f"not checked: {found.left_out}"
        )
    else:
        note = found.note and f" ({found.note})"
        say(
            f"{held}; {found.metric} {found.value:.4f} on {found.examples} test examples and "
            f"{found.size} bytes of weights are as the manifest says{note}"
        )
    for one in found.claims:
        say(f"  {one.figure} {one.value}: {'checked' if one.held else 'claimed'} ({one.why})")
    say(f"digest {found.digest}")


def _name(recorded: str, task: str | None, folder: Path | None, outside: Path) -> None:
    """Load what a run or a bundle names, where the user says which code that is."""
    from paretax.tasks.loading import name_task

    if task or folder:
        name_task(recorded, task, [] if folder is None else [folder], outside)


def check(
    run: RunArgument,
    repair: Annotated[
        bool, typer.Option("--repair", help="Save what is not damaged into a new folder.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The new folder.", show_default="RUN-repaired"),
    ] = None,
) -> None:
    """Read all of a run, and say what is damaged."""
    from paretax.results.checking import check_run
    from paretax.results.checking import repair as save

    found = check_run(run)
    for damage in found.damages:
        say(damage)
    count = 0 if found.run is None else len(found.run.trials)
    kept = f"{len(found.events)} events, {count} trials, {len(found.weights)} files of weights"
    torn = "; its last line was being written when the search was stopped" if found.torn else ""
    old = f"; {found.unchecked} files of weights have no checksum" if found.unchecked else ""
    if repair:
        new = save(found, out or run.with_name(f"{run.resolve().name}-repaired"))
        say(f"saved {kept} to {new.folder}; {len(found.damages)} damages stay behind")
    elif found.damages:
        say(
            f"failed: {len(found.damages)} damages; {kept} are as they were written: add --repair "
            "to save these into a new folder",
            error=True,
        )
        raise typer.Exit(1)
    else:
        say(f"checked {run}: {kept} are as they were written{torn}{old}")


def reproduce(
    run: RunArgument,
    trial: Annotated[int, typer.Argument(min=0, help="Number of a trial.")],
    force_data: ForceOption = False,
    task: TaskOption = None,
    task_path: TaskPathOption = None,
) -> None:
    """Train a trial again from the journal alone, and compare its score with the recorded one."""
    from paretax.evaluators.runtime import apply_worker_environment

    apply_worker_environment()
    from paretax.evaluators.runtime import machine, versions
    from paretax.results import Run
    from paretax.results import reproduce as again

    opened = Run.open(run)
    _name(opened.task_name, task, task_path, run)
    found = again(opened, opened.trial(trial), force_data=force_data)
    say(f"trial {trial}: {found.metric} recorded {found.recorded}, now {found.again}")
    if found.equal:
        say("reproduced exactly")
        return
    then = {**opened.header["versions"], **opened.header["machine"]}
    now = {**versions(), **machine()}
    changed = [f"{k} was {then[k]!r}, is {now.get(k)!r}" for k in then if then[k] != now.get(k)]
    why = "; ".join(changed) or "versions and machine are those of the run"
    say(f"failed: not reproduced ({why})", error=True)
    raise typer.Exit(1)
