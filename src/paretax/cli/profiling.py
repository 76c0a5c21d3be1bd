"""`paretax profiles`: the devices that candidates are scored on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from paretax.cli.correcting import correct
from paretax.cli.failing import failing_on
from paretax.cli.saying import say
from paretax.cli.scoring import FormatOption
from paretax.cli.searching import TableFormat
from paretax.errors import UsageError

profiles = typer.Typer(help="The devices that candidates can be scored on.", no_args_is_help=True)


@profiles.command("list")
def list_profiles(form: FormatOption = TableFormat.table) -> None:
    """List the hardware profiles."""
    from tabulate import tabulate

    from paretax.hardware_profiles import load_profile, profile_names
    from paretax.hardware_profiles.profile import DATA_SHEET

    found = [load_profile(name) for name in profile_names()]
    if form is TableFormat.json:
        say(json.dumps([p.model_dump(mode="json") for p in found], indent=2))
        return
    rows = [
        (
            p.name,
            p.platform,
            p.mode,
            f"{max(p.peak.values()) / 1e12:.3g}",
            f"{p.main_memory.bandwidth / 1e9:.4g}",
            f"{p.main_memory.size / 2**30:.3g}",
            "-" if p.price is None else f"{p.price:.2f}",
            "-" if p.mode == "measured" else "checked" if p.checked else DATA_SHEET,
            p.description,
        )
        for p in found
    ]
    rates = ["Top/s", "GB/s", "GiB", "USD/h"]
    heads = ["target", "compiler", "latency is", *rates, "model", "description"]
    say(tabulate(rows, heads, tablefmt="simple", disable_numparse=True))


@profiles.command()
def show(
    name: Annotated[str, typer.Argument(help="Of a profile, or the path of your own.")],
    form: FormatOption = TableFormat.table,
) -> None:
    """Show one hardware profile, in SI base units."""
    import yaml

    from paretax.hardware_profiles import load_profile

    plain = load_profile(name).model_dump(mode="json")
    if form is TableFormat.json:
        say(json.dumps(plain, indent=2))
    else:
        say(yaml.safe_dump(plain, sort_keys=False, width=100).rstrip("\n"))


@profiles.command()
def calibrate(
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="File of the profile; default: the user's, or TARGET-measured.yaml."
        ),
    ] = None,
    programs: Annotated[
        int | None, typer.Option(min=20, help="Small programs to measure; 1,500 take 15 minutes.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the programs.")] = 0,
    target: Annotated[
        str | None, typer.Option(help="A device elsewhere, which --measurements were made on.")
    ] = None,
    measurements: Annotated[
        Path | None,
        typer.Option(help="CSV file: task, batch, latency_us, and parameters of the tasks."),
    ] = None,
) -> None:
    """Measure this machine's CPU: rates, bandwidths, overheads, and what kernels take beyond them.

    The profile `cpu` then is the calibrated one on this machine. Nothing else should run meanwhile.
    With --target and --measurements, correct the profile of a device elsewhere by latencies that
    you measured on it, ten or so.
    """
    if (target is None) != (measurements is None):
        raise UsageError("--target and --measurements belong together: give both, or neither")
    if target is not None and measurements is not None and programs is not None:
        raise UsageError("--programs are measured on this machine: leave it out with --target")
    from paretax.evaluators.runtime import apply_worker_environment

    apply_worker_environment()
    if target is not None and measurements is not None:
        correct(target, measurements, out)
        return
    from paretax.cli.progress import bar
    from paretax.evaluators.latency_model.calibration import PROGRAMS
    from paretax.evaluators.latency_model.local_profile import calibrated, write_profile
    from paretax.hardware_profiles import load_profile
    from paretax.hardware_profiles.profile import calibrated_path

    path, count = out or calibrated_path("cpu"), programs or PROGRAMS
    with bar("measuring", count) as advance, failing_on(ValueError):
        learned = calibrated(load_profile("cpu"), count, seed, advance)
    write_profile(learned, path)
    say(
        f"{learned.programs} programs measured, {learned.dropped} dropped (disturbed). Latency of "
        f"programs that were held out: median error {100 * learned.median_error:.1f}%, "
        f"80% interval x/{2.718281828 ** (1.2816 * learned.error):.2f}"
    )
    say(f"written to {path}")
