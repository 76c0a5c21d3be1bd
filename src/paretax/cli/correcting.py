"""`paretax profiles calibrate --target`: a device elsewhere, by measurements of the user's own."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretax.cli.saying import say
from paretax.errors import UsageError

if TYPE_CHECKING:
    from paretax.evaluators.latency_model.correcting import Corrected
    from paretax.hardware_profiles import HardwareProfile

_COLUMNS = ("task", "batch", "latency_us")


@dataclass(frozen=True, kw_only=True)
class Given:
    """A measurement that the user has made.

    Args:
        task: its name.
        chosen: parameters that are not the task's defaults.
        batch: examples in a call.
        seconds: of a call that was waited for.
        where: it stands, for messages.
    """

    task: str
    chosen: dict[str, Any]
    batch: int
    seconds: float
    where: str


def correct(target: str, measurements: Path, out: Path | None) -> None:
    """Write a target's profile with the overhead and the slowdown that measurements show.

    Raises:
        UsageError: a measurement that cannot be, too few of them, or a target that is measured.
    """
    from paretax.cli.progress import bar
    from paretax.evaluators.compilers import Compiler
    from paretax.evaluators.latency_model.correcting import LEAST, Point, corrected
    from paretax.hardware_profiles import load_profile

    profile = load_profile(target)
    if profile.mode == "measured":
        raise UsageError(
            f"target {target!r} is measured where it is: calibrate it there, without --target"
        )
    path = out or Path(f"{profile.name}-measured.yaml")
    given = list(read(measurements))
    if len({each.seconds for each in given}) < LEAST:
        raise UsageError(
            f"--measurements must give {LEAST} different latencies or more, got "
            f"{len({each.seconds for each in given})} in {str(measurements)!r}: measure further "
            "models or batches"
        )
    compiler, points = Compiler(), []
    with bar("compiling", len(given)) as advance:
        for done, each in enumerate(given, 1):
            points.append(
                Point(rest=_rest(each, target, compiler) / profile.slowdown, measured=each.seconds)
            )
            advance(done)
    found = corrected(points, profile.call_overhead)
    _write(target, profile, found, len(given), measurements, path)
    _show(profile, given, points, found)
    say(
        f"{profile.name}: {1e6 * found.call_overhead:.3g} us a call (the profile said "
        f"{1e6 * profile.call_overhead:.3g}), all else x{found.slowdown:.2f}. Of measurements that "
        f"were left out: median error {100 * found.median_error:.1f}%; 80% interval "
        f"x/{2.718281828 ** (1.2816 * found.error):.2f}"
    )
    say(f"written to {path}; use it with --target {path}, or as a target in a config")


def read(path: Path) -> Iterator[Given]:
    """The measurements of a CSV file.

    Columns are `task`, `latency_us`, `batch` (1 where it is missing), and parameters of the tasks;
    an empty cell leaves a parameter at its default.

    Raises:
        UsageError: names the file, the line, and what is wrong.
    """
    from paretax.plain import read_yaml

    try:
        lines = csv.DictReader(io.StringIO(path.read_text("utf-8"), newline=""))
        rows = [(lines.line_num, line) for line in lines]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or "it is no CSV file in UTF-8"
        raise UsageError(f"{str(path)!r} cannot be read ({why}): check the path") from None
    named = list(lines.fieldnames or ())
    for column in ("task", "latency_us"):
        if column not in named:
            raise UsageError(f"{str(path)!r} lacks the column {column!r}: add it")
    for number, line in rows:
        where = f"{str(path)!r}, line {number}"
        if None in line or None in line.values():
            raise UsageError(f"{where} must have {len(named)} cells, as the first line has")
        yield Given(
            task=line["task"].strip(),
            chosen={
                name: read_yaml(cell, f"{where}, {name}")
                for name, cell in line.items()
                if name not in _COLUMNS and cell.strip()
            },
            batch=int(_number(line.get("batch") or "1", "batch", where, whole=True)),
            seconds=1e-6 * _number(line["latency_us"], "latency_us", where),
            where=where,
        )


def _number(text: str, column: str, where: str, *, whole: bool = False) -> float:
    try:
        number = float(int(text)) if whole else float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"{where}: `{column}` must be {kind} above 0, got {text!r}")
    return number


def _rest(given: Given, target: str, compiler: Any) -> float:
    """Modelled seconds of a program on a target, without the call's overhead."""
    from paretax.cli.scoring import candidate_of
    from paretax.evaluators import Target, Workbench
    from paretax.evaluators.compilers import CompileError
    from paretax.evaluators.targets import TargetsEvaluator
    from paretax.tasks import load_task

    try:
        task = load_task(given.task, [Path.cwd()])
        candidate = candidate_of(task, given.chosen)
        own = replace(Target.of(target, batch=given.batch), measure=False)
        program = TargetsEvaluator(Workbench(task), [own], compiler=compiler).program(
            candidate, given.batch
        )
        made = compiler.compile(own.profile, program)
    except (UsageError, CompileError) as error:
        raise UsageError(f"{given.where}: {error}") from error
    seconds: float = own.latency_model.predict(made).seconds - own.profile.call_overhead
    return seconds


def _write(
    target: str,
    profile: HardwareProfile,
    found: Corrected,
    count: int,
    measurements: Path,
    path: Path,
) -> None:
    import yaml

    from paretax.hardware_profiles.profile import profile_file
    from paretax.plain import read_yaml_file

    plain: dict[str, Any] = dict(read_yaml_file(profile_file(target)))
    left_out = f"{100 * found.median_error:.0f}%"
    plain |= {
        "call_overhead": f"{1e6 * found.call_overhead:.4g} us",
        "slowdown": round(found.slowdown, 4),
        "error": round(found.error, 4),
        "checked": f"{count} measurements of your own, median error of those left out {left_out}",
    }
    plain["sources"] = [
        f"call_overhead, slowdown and error: fitted by `paretax profiles calibrate` to {count} "
        f"measurements of {measurements.name}",
        *profile.sources,
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(plain, sort_keys=False, width=100), "utf-8")


def _show(
    profile: HardwareProfile, given: list[Given], points: list[Any], found: Corrected
) -> None:
    from tabulate import tabulate

    rows = [
        (
            each.task,
            ", ".join(f"{k}={v}" for k, v in each.chosen.items()) or "-",
            each.batch,
            f"{1e6 * each.seconds:,.4g}",
            f"{1e6 * (profile.call_overhead + profile.slowdown * point.rest):,.4g}",
            f"{1e6 * found.seconds(point.rest):,.4g}",
        )
        for each, point in zip(given, points, strict=True)
    ]
    heads = ["task", "parameters", "batch", "measured, us", "model before", "now"]
    align = ("left", "left", *["right"] * 4)
    say(tabulate(rows, heads, tablefmt="simple", disable_numparse=True, colalign=align))
