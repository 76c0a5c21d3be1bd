"""Runs benchmarks one after another, keeps their figures, and writes them into the README.

    python benchmarks/record.py                     # all of them, --quick
    python benchmarks/record.py throughput scaling  # these
    python benchmarks/record.py --full systolic

Figures of time want a machine on which nothing else runs. All changes must be committed before, as
a record names its commit. A script that fails keeps its old record; the others run all the same.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from readme import ROWS

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run what is named."""
    names = [row.script for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=", ".join(names))
    parser.add_argument("--full", action="store_true", help="not --quick")
    given = parser.parse_args()
    if unknown := sorted({*given.scripts} - {*names}):
        parser.error(f"no benchmark is called {unknown[0]!r}: {', '.join(names)}")
    failed = []
    for name in given.scripts or names:
        print(f"\n== {name}", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), "--record"]
        if subprocess.run(command if given.full else [*command, "--quick"], check=False).returncode:
            failed.append(name)
    for page in ("readme.py", "devices_page.py"):
        subprocess.run([sys.executable, str(HERE / page)], check=True)
    if failed:
        raise SystemExit(f"failed, and their records are as before: {', '.join(failed)}")


if __name__ == "__main__":
    main()
