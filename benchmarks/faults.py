"""Kills, damages and deceives: nothing is lost, nothing believed, all ends in one line.

Searches are killed: the process of the search, Ray's workers, parts of Ray, a node. They are told
to end by signals, on full disks, in folders that cannot be written; their tasks do their worst.
Journals lose, change and swap bytes and lines. Bundles are damaged, and their checksums made again.
Configs and profiles are changed at random. Bundles and runs name code of their own. Each kind is
drawn from a printed seed.

    python benchmarks/faults.py --quick
    python benchmarks/faults.py --only drivers,workers

Counted are: events or trials that are lost, or twice in a journal; resumed searches whose front is
not that of an undisturbed one; what is believed though it was changed; tracebacks, and messages of
thousands of characters; what takes ten seconds longer than it may, and processes that outlive a
search by five; and code that ran without being named by the user.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from faults_code import code_runs
from faults_files import CONFIG, bundles, inputs, journals
from faults_searches import (
    Account,
    Judge,
    drivers,
    full_disks,
    nodes,
    parts_of_ray,
    places,
    signals,
    workers,
)
from faults_tasks import hostile
from reporting import arguments, finish, of_scale, show

SEED = 14
DISTURBED: dict[str, tuple[Callable[[Judge, int, random.Random], None], tuple[int, int, int]]] = {
    "drivers": (drivers, (30, 3, 1)),
    "workers": (workers, (60, 6, 0)),
    "parts of Ray": (parts_of_ray, (8, 2, 0)),
    "nodes": (nodes, (2, 1, 0)),
    "hostile": (hostile, (60, 9, 3)),
    "signals": (signals, (16, 4, 0)),
    "full disks": (full_disks, (8, 2, 0)),
    "places": (places, (6, 2, 1)),
}
"""How searches are disturbed, and how often: in full, quick, smoke."""
DAMAGED = {
    "journals": (journals, (600, 600, 40)),
    "bundles": (bundles, (600, 20, 2)),
    "inputs": (inputs, (1500, 1500, 60)),
}


def disturbed(folder: Path, numbers: dict[str, int], account: Account) -> None:
    """Searches, one after another."""
    judge = Judge(folder, account)
    for name, count in numbers.items():
        if count:
            print(f"{name}: {count}, seed {SEED}", flush=True)
            DISTURBED[name][0](judge, count, random.Random(SEED))


def damaged(folder: Path, numbers: dict[str, int], account: Account) -> dict[str, Counter[str]]:
    """Files that are changed, and code that they name."""
    from paretax.results import export_bundle
    from paretax.search import parse_config, plan, run_search

    run = run_search(plan(parse_config(CONFIG, "the config")), folder / "run")
    trial = next(t for t in run.front("cpu") if t.candidate["quantize"])
    export_bundle(run, trial, "cpu", folder / "bundle")
    found = {}
    for name, count in numbers.items():
        print(f"{name}: {count}, seed {SEED}", flush=True)
        found[name] = DAMAGED[name][0](folder, count, random.Random(SEED))
    return found


def main() -> None:
    """Do all of it, count, and print."""
    given = arguments(__doc__ or "", only=[*DISTURBED, *DAMAGED, "code"])
    began = time.perf_counter()
    account = Account()
    counts = {
        name: of_scale(given, full=full, quick=quick, smoke=smoke) if name in given.parts else 0
        for name, (_, (full, quick, smoke)) in {**DISTURBED, **DAMAGED}.items()
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["PARETAX_CACHE"] = str(folder / "cache")
        disturbed(folder / "searches", {n: counts[n] for n in DISTURBED}, account)
        found = damaged(folder, {n: counts[n] for n in DAMAGED if counts[n]}, account)
        if "code" in given.parts:
            print("code that is named", flush=True)
            code_runs(folder, of_scale(given, full=6, quick=2, smoke=1), account)
    show("What was done to searches", [{"what": n, "times": c} for n, c in account.done.items()])
    show("What came of files", [{"kind": n, **counted} for n, counted in found.items()])
    everything = sum(found.values(), Counter())
    none: Counter[str] = Counter()
    figures = {
        "kills": account.kills,
        "lost": account.lost,
        "duplicates": account.duplicates,
        "front_differs": account.front_differs,
        "journal_damages": found.get("journals", none).total(),
        "journal_believed": found.get("journals", none)["believed"],
        "bundle_damages": found.get("bundles", none).total(),
        "bundle_believed": found.get("bundles", none)["believed"],
        "bad_inputs": found.get("inputs", none).total(),
        "tracebacks": account.tracebacks + everything["traceback"],
        "hangs": account.hangs + everything["hang"],
        "hostile_believed": account.believed,
        "code_runs": account.code_runs,
    }
    finish(given, figures, began)


if __name__ == "__main__":
    main()
