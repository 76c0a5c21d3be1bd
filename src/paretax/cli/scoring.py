"""`paretax score` and `paretax profiles`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from paretax.cli.failing import failing_on
from paretax.cli.searching import TableFormat
from paretax.errors import UsageError

FormatOption = Annotated[TableFormat, typer.Option("--format", help="For people or for scripts.")]

profiles = typer.Typer(help="The devices that candidates can be scored on.", no_args_is_help=True)


def score(
    task: Annotated[str, typer.Argument(help="A built-in task, or module:attribute.")],
    target: Annotated[list[str], typer.Option(help="A hardware profile; may be repeated.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A parameter, such as width=32 or weight_bits=4."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Examples in one call.")] = 1,
    form: FormatOption = TableFormat.table,
) -> None:
    """Score one model on targets: size, latency and peak memory. Nothing is trained."""
    from paretax.evaluators.runtime import apply_worker_environment

    apply_worker_environment()
    from tabulate import tabulate

    from paretax.evaluators import Measurement
    from paretax.evaluators.objectives import COST_NAMES
    from paretax.hardware_profiles import load_profile
    from paretax.search.worker import Worker, WorkerSpec
    from paretax.spaces import SETTINGS, check_space, parse_space
    from paretax.tasks import load_task

    for name in target:
        load_profile(name)
    loaded = load_task(task, [Path.cwd()])
    chosen = dict(_setting(text) for text in settings or [])
    candidate: dict[str, Any] = dict(loaded.defaults) | chosen
    held = parse_space(candidate)
    check_space(held, SETTINGS, loaded.defaults, loaded.name)
    spec = WorkerSpec(
        task=task,
        search_path=(str(Path.cwd()),),
        targets=tuple((name, batch) for name in target),
        wanted=COST_NAMES,
    )
    evaluation = Worker(spec).score(held.candidate(candidate), seed=0)
    found: list[Measurement] = list(evaluation.measurements)
    if form is TableFormat.json:
        plain = {
            "task": task,
            "candidate": candidate,
            "measurements": [m.to_json() for m in found],
            "failure": evaluation.failure.to_json() if evaluation.failure else None,
        }
        print(json.dumps(plain, indent=2))
    else:
        rows = [
            (
                m.target or "any",
                m.objective,
                f"{m.value:g}",
                "" if m.spread is None else f"{m.spread:.2g}",
                m.unit,
                str(m.provenance),
            )
            for m in found
        ]
        heads = ["target", "quantity", "value", "+-", "unit", "obtained"]
        print(tabulate(rows, heads, tablefmt="simple", disable_numparse=True))
        print(f"\n{task} with " + ", ".join(f"{k}={v}" for k, v in candidate.items()))
    if evaluation.failure is not None:
        with failing_on(RuntimeError):
            raise RuntimeError(f"{evaluation.failure.reason}: {evaluation.failure.message}")


def _setting(text: str) -> tuple[str, Any]:
    from paretax.search.config import read_yaml

    name, equals, value = text.partition("=")
    parsed = read_yaml(value) if equals else None
    if not isinstance(parsed, bool | int | float | str):
        raise UsageError(f"--set must be like width=32, got {text!r}")
    return name, parsed


@profiles.command("list")
def list_profiles(form: FormatOption = TableFormat.table) -> None:
    """List the hardware profiles."""
    from tabulate import tabulate

    from paretax.hardware_profiles import load_profile, profile_names

    found = [load_profile(name) for name in profile_names()]
    if form is TableFormat.json:
        print(json.dumps([asdict(p) for p in found], indent=2))
        return
    rows = [(p.name, p.mode, p.description) for p in found]
    print(tabulate(rows, ["target", "scores are", "description"], tablefmt="simple"))


@profiles.command()
def show(
    name: Annotated[str, typer.Argument(help="Of a profile.")],
    form: FormatOption = TableFormat.table,
) -> None:
    """Show one hardware profile."""
    import yaml

    from paretax.hardware_profiles import load_profile

    plain = asdict(load_profile(name))
    plain["sources"] = list(plain["sources"])
    if form is TableFormat.json:
        print(json.dumps(plain, indent=2))
    else:
        print(yaml.safe_dump(plain, sort_keys=False).rstrip("\n"))
