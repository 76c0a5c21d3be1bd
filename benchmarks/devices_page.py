"""Writes docs/devices.md: what the model of each device was held against, and how far off it was.

Run it after `benchmarks/silicon.py` was recorded, or a profile was changed:

    python benchmarks/devices_page.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from reporting import ROOT

from paretax.hardware_profiles import load_profile, profile_names

PAGE = ROOT / "docs" / "devices.md"
BEGIN = """# What the models of devices were held against

A latency of a device that is not there is modelled: from the kernels that the device's compiler
made, and the profile of the device ([how](design/0004-hardware-scores.md)). This page says for each
profile what it was held against. It is written by `python benchmarks/devices_page.py` from the
profiles and from what `benchmarks/silicon.py` has recorded; the measurements, and where they are
from, are in [benchmarks/measured](../benchmarks/measured/README.md).

**Data sheet only** means that nobody held the model of this device against a measurement. What is
common to its kind (overheads of a GPU's host, the share of a roofline that kernels reach) is then
from the devices of its kind that were measured, and the 80% interval is that of a device which
nobody measured. Ten latencies of your own correct it:
`paretax profiles calibrate --target t4 --measurements mine.csv`.

"Order" is Spearman's rank correlation of modelled and measured latencies, with that of the best
simple rule (operations, bytes, kernels, roofline, the compiler's own estimate) behind it. Times of
other frameworks say nothing of the level: for them the error is that about the median ratio.
"""


def row(name: str, figures: Mapping[str, float], way: str = "") -> str:
    """What was found for a device, as the cells of a table."""
    of = {k: figures[f"{name}{way}.{k}"] for k in ("ours", "best_rule", "median_error", "coverage")}
    return (
        f"{figures[f'{name}{way}.networks']:.0f} | {of['ours']:.3f} ({of['best_rule']:.3f}) | "
        f"{of['median_error']:.0%} | {of['coverage']:.0%}"
    )


def page(figures: Mapping[str, float]) -> str:
    """The whole page.

    Args:
        figures: of the record of `silicon.py`.
    """
    heads = ["calls", "order", "median error", "80% interval held"]
    lines = [BEGIN, *_heads(["target", "device", "latency is", "held against", *heads])]
    for name in profile_names():
        profile = load_profile(name)
        about = f"| `{name}` | {profile.description} | {profile.mode} |"
        if profile.mode == "measured":
            lines.append(f"{about} it is this machine: `benchmarks/latency_model.py` | | | | |")
        elif f"{name}.ours" not in figures:
            lines.append(f"{about} {profile.standing} | | | | |")
        else:
            lines.append(f"{about} {profile.checked} | {row(name, figures)} |")
            if f"{name}-queued.ours" in figures:
                lines.append(f"| | | | calls in a queue | {row(name, figures, '-queued')} |")
    others = sorted({key.partition(".")[0] for key in figures if key.endswith(".ours")})
    others = [n for n in others if n.removesuffix("-queued") not in profile_names()]
    lines += ["", "Devices without a profile here, of which somebody published measurements:", ""]
    lines += _heads(["device", *heads])
    lines += [f"| {name} | {row(name, figures)} |" for name in others]
    return "\n".join(lines) + "\n"


def _heads(names: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]


def main() -> None:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args()
    record: dict[str, Any] = json.loads(
        (ROOT / "benchmarks" / "results" / "silicon.json").read_text("utf-8")
    )
    then = page(record["figures"])
    if not given.check:
        PAGE.write_text(then, "utf-8")
    elif not PAGE.exists() or PAGE.read_text("utf-8") != then:
        raise SystemExit("docs/devices.md differs from the records: benchmarks/devices_page.py")


if __name__ == "__main__":
    main()
