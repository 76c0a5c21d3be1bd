"""Checking a bundle, without the run that it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from paretax.errors import UsageError, shown
from paretax.evaluators import Workbench
from paretax.evaluators.scoring import metric_of
from paretax.results.bundle import Bundle, load_bundle, stored_size
from paretax.results.claims import Claim, claims
from paretax.results.manifest import BrokenBundleError, digest, read_manifest
from paretax.results.opening import is_own, outputs_apart
from paretax.results.releases import TOLERANCE, both_jaxlibs, same_score
from paretax.tasks import BUILT_IN
from paretax.tasks.loading import name_task, recorded_task


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What held.

    Args:
        files: how many files have the checksum that the manifest says.
        size: bytes of the stored arrays.
        metric: the name of the metric.
        value: of the test split, through the exported program; None where it was left out.
        examples: in the test split; None where it was left out.
        digest: by which the whole bundle is known.
        claims: its other figures, each found again here or believed.
        left_out: why the score was not checked; or empty.
        note: that another jaxlib is here, and how far the score may be off then; or empty.
    """

    files: int
    size: int
    metric: str
    digest: str
    value: float | None = None
    examples: int | None = None
    claims: tuple[Claim, ...] = ()
    left_out: str = ""
    note: str = ""


def verify_bundle(
    folder: Path | str, search_path: Iterable[Path | str] = (), expect: str | None = None
) -> Verification:
    """Check the files, run the test split through the exported program, and compare the score.

    Figures that a compiler gives are computed again; those that only the device or the training
    gives are what the bundle claims (see `claims`).

    No code is imported because the bundle says so. A task of the user's own is one that this
    process has loaded, or that is in `search_path`; where it is neither, all is checked that needs
    no code, and `left_out` says why the score was not.

    Args:
        folder: of the bundle.
        search_path: folders to import a user's task from.
        expect: the digest that the bundle had when it was exported. The checksums of a bundle that
            somebody changed may have been made again; its digest then is another.

    Raises:
        UsageError: the folder is no bundle, or the task is not where the user says.
        BrokenBundleError: the digest, a checksum, the shape of the inputs, the size or the score
            is off; the score by more than `TOLERANCE` where another jaxlib wrote the bundle.
    """
    folder = Path(folder)
    read_manifest(folder)
    known = digest(folder)
    if expect is not None and known != expect.lower():
        raise BrokenBundleError(f"the bundle's digest is {known}, and {shown(expect)} was expected")
    bundle = load_bundle(folder)
    recorded = bundle.manifest["test"]
    size = stored_size(folder)
    if size != bundle.manifest["weights"]["bytes"]:
        raise BrokenBundleError(
            f"the stored arrays have {size} bytes, and the manifest says "
            f"{bundle.manifest['weights']['bytes']}"
        )
    done = Verification(
        files=len(bundle.manifest["checksums"]),
        size=size,
        metric=recorded["objective"],
        digest=known,
    )
    name, folders = str(bundle.manifest["task"]), [Path(p) for p in search_path]
    if folders:
        name_task(name, folders=folders, outside=folder)
    try:
        task = recorded_task(name)
    except UsageError as error:
        if name in BUILT_IN:
            raise
        told = tuple(claims(bundle.manifest, None))
        return replace(done, claims=told, left_out=str(error))
    return _with_score(done, bundle, Workbench(task))


def _with_score(done: Verification, bundle: Bundle, bench: Workbench) -> Verification:
    manifest = bundle.manifest
    test = bench.data.test
    expected = tuple(manifest["program"]["inputs"][1:])
    if test.inputs.shape[1:] != expected:
        raise BrokenBundleError(
            f"the program takes examples of shape {expected}, and the task's have "
            f"{test.inputs.shape[1:]}"
        )
    inputs = np.asarray(test.inputs)
    own = is_own(bundle.folder)
    outputs = bundle(inputs) if own else outputs_apart(bundle.folder, inputs)
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
    told = tuple(claims(manifest, bench))
    return replace(done, value=value, examples=len(test), claims=told, note=note)
