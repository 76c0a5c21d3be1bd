"""Checking a bundle, without the run that it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from paretax.evaluators import Workbench
from paretax.evaluators.scoring import metric_of
from paretax.results.bundle import BrokenBundleError, load_bundle, stored_size
from paretax.results.releases import TOLERANCE, both_jaxlibs, same_score
from paretax.tasks import load_task


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What held.

    Args:
        files: how many files have the checksum that the manifest says.
        metric: the name of the metric.
        value: of the test split, through the exported program.
        examples: in the test split.
        size: bytes of the stored arrays.
        note: that another jaxlib is here, and how far the score may be off then; or empty.
    """

    files: int
    metric: str
    value: float
    examples: int
    size: int
    note: str = ""


def verify_bundle(folder: Path, search_path: Iterable[Path] = ()) -> Verification:
    """Check the files, run the test split through the exported program, and compare the score.

    Args:
        folder: of the bundle.
        search_path: folders to import a user's task from.

    Raises:
        UsageError: the folder is no bundle, or its task cannot be loaded.
        BrokenBundleError: a checksum, the shape of the inputs, the size or the score is off; the
            score by more than `TOLERANCE` where another jaxlib wrote the bundle.
    """
    bundle = load_bundle(folder)
    manifest = bundle.manifest
    bench = Workbench(load_task(manifest["task"], search_path))
    test = bench.data.test
    expected = tuple(manifest["program"]["inputs"][1:])
    if test.inputs.shape[1:] != expected:
        raise BrokenBundleError(
            f"the program takes examples of shape {expected}, and the task's have "
            f"{test.inputs.shape[1:]}"
        )
    size = stored_size(folder)
    if size != manifest["weights"]["bytes"]:
        raise BrokenBundleError(
            f"the stored arrays have {size} bytes, and the manifest says "
            f"{manifest['weights']['bytes']}"
        )
    outputs = bundle(test.inputs)
    value = metric_of(bench.task, outputs, test.targets)
    recorded, then = manifest["test"], manifest.get("versions", {})
    note = both_jaxlibs(then)
    note = note and f"{note}: the score may differ by {TOLERANCE:.0%}"
    same = same_score(value, recorded["value"], then) and len(test) == recorded["examples"]
    if not same:
        raise BrokenBundleError(
            f"{recorded['objective']} on the test split is {value} over {len(test)} examples, and "
            f"the manifest says {recorded['value']} over {recorded['examples']}"
            f"{note and f' ({note})'}"
        )
    return Verification(
        files=len(manifest["checksums"]),
        metric=recorded["objective"],
        value=value,
        examples=len(test),
        size=size,
        note=note,
    )
