"""Bundles, runs and configs that name code of their own: none of it runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults_searches import CLI, Account

SOURCE = """
from pathlib import Path
Path({mark!r}).write_text("ran")
import paretax.tasks.breast_cancer as known
task = known.task
"""
NAMES = ("evil:task", "code:interact", "this:s", "antigravity:task", "json", "os:system")
SECONDS = 120


def code_runs(folder: Path, count: int, account: Account) -> None:
    """Have a bundle's manifest and a run's journal name modules, also such that lie beside them."""
    mark, place = folder / "it-ran", folder / "named"
    place.mkdir()
    _check_mark(folder, mark)
    for name in NAMES[:count]:
        bundle = _copy(folder / "bundle", place / "bundle", mark)
        manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
        manifest["task"] = name
        (bundle / "manifest.json").write_text(json.dumps(manifest), "utf-8")
        for there in (place, bundle):
            _try(account, mark, name, bundle, ["verify", str(bundle)], there)

        run = _copy(folder / "run", place / "run", mark)

        def named(event: dict[str, Any], name: str = name, run: Path = run) -> None:
            if "config" in event:
                event["config"]["task"] = name
                event["search_path"] = [str(run), ""]

        _rewrite(run / "journal.jsonl", named)
        for command in (
            ["leaderboard", str(run)],
            ["report", str(run), "--out", str(place / "report.html")],
            ["check", str(run)],
            ["export", str(run), "--out", str(place / "exported")],
            ["reproduce", str(run), "0"],
        ):
            _try(account, mark, name, run, command, place)


def _try(
    account: Account, mark: Path, name: str, where: Path, command: list[str], there: Path
) -> None:
    """Run a command in a folder; `code:interact` would read from the terminal, and print."""
    done = subprocess.run(
        [CLI[0], "-P", *CLI[1:], *command],
        cwd=there,
        input="print('it' + ' ran')\n",
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={k: v for k, v in os.environ.items() if k != "PYTHONSTARTUP"},
    )
    words = f"{command[0]} of {where.name} that names {name!r}: {done.stderr[-300:]}"
    if "Usage: paretax" in done.stderr:
        raise SystemExit(f"faults.py: no such command: {command}: {done.stderr}")
    if mark.exists() or "it ran" in done.stdout + done.stderr:
        mark.unlink(missing_ok=True)
        account.fault("code_runs", words)
    if "Traceback (most recent" in done.stderr:
        account.fault("tracebacks", words)
    account.done["code that is named"] += 1


def _check_mark(folder: Path, mark: Path) -> None:
    """The module does leave its mark where the user names it: else nothing is shown here."""
    bundle = _copy(folder / "bundle", folder / "marked", mark)
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8")) | {"task": "evil:task"}
    (bundle / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    beside = folder / "evil"
    beside.mkdir()
    (bundle / "evil.py").replace(beside / "evil.py")
    command = [*CLI, "verify", str(bundle), "--task-path", str(beside)]
    subprocess.run(command, capture_output=True, check=False)
    if not mark.exists():
        raise SystemExit("faults.py: a module that the user names does not leave its mark")
    mark.unlink()


def _copy(source: Path, place: Path, mark: Path) -> Path:
    """A copy with a module beside it."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(source, place)
    (place / "evil.py").write_text(SOURCE.format(mark=str(mark)), "utf-8")
    return place


def _rewrite(journal: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write a journal anew with whole checksums, as somebody may who can write the folder."""
    from paretax.results.journal import Journal, read_events

    events = list(read_events(journal.parent))
    journal.unlink()
    with Journal(journal.parent, resume=False) as again:
        for event in events:
            change(event)
            again.append(event)
