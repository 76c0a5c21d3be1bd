"""What a bundle says of itself: which of its figures are found again here, and which are believed.

A figure that needs neither the device nor the training is computed again from the task's code and
the target's compiler. All others are what the bundle claims.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from paretax.errors import UsageError, users_code
from paretax.evaluators import Measurement, Provenance, Target, Workbench
from paretax.evaluators.compilation import lower_for
from paretax.evaluators.costs import GRID
from paretax.evaluators.runtime import machine, versions
from paretax.evaluators.targets import COST_MODEL, TargetsEvaluator, memory_of
from paretax.hardware_profiles import load_profile, profile_names
from paretax.hardware_profiles.profile import stated
from paretax.results.manifest import BrokenBundleError
from paretax.results.run import Run

_SAME = ("jaxlib", "paretax", "cost_model", "processor", "xla_flags")
"""What compiled programs and models of their costs depend on, beside the profile."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A figure of a bundle.

    Args:
        figure: its name, with the device.
        value: with its unit.
        held: whether it was found again here.
        why: how, or why it is only claimed.
    """

    figure: str
    value: str
    held: bool
    why: str


def device_of_run(run: Run, target: str) -> dict[str, Any]:
    """What a manifest keeps of the device, so that its figures can be computed again."""
    (config,) = (t for t in run.header["config"]["targets"] if t["name"] == target)
    told = {"cost_model": run.header.get("cost_model")}
    then = {**run.header["versions"], **run.header["machine"], **told}
    return {
        "batch": config.get("batch", 1),
        "grid": config.get("grid", GRID),
        "measure": config.get("measure"),
        "parts": config.get("parts", False),
        "elsewhere": config.get("accelerator_type") is not None,
        "profile": _digest(stated(run.header["profiles"][target])),
        "scored_with": {key: then.get(key) for key in _SAME},
    }


def claims(manifest: Mapping[str, Any], bench: Workbench | None) -> list[Claim]:
    """Each figure of a bundle beside the test score, checked as far as that is possible.

    Args:
        manifest: of the bundle, read by `read_manifest`.
        bench: the task; None: it is not known here.

    Raises:
        BrokenBundleError: a figure comes out otherwise, where nothing that it depends on differs.
    """
    told = {(m["objective"], m.get("target")): m for m in manifest["measurements"]}
    again, why_not = _again(manifest, bench) if _computable(told.values()) else ({}, "")
    return [_claim(m, manifest, again.get(place), why_not) for place, m in told.items()]


def _computable(told: Iterable[Mapping[str, Any]]) -> bool:
    return any(m["provenance"] != Provenance.MEASURED and m["objective"] != "size" for m in told)


def _claim(
    m: Mapping[str, Any], manifest: Mapping[str, Any], again: Measurement | None, why_not: str
) -> Claim:
    figure = m["objective"] + (f" on {m['target']}" if m.get("target") else "")
    value = f"{m['value']:.6g} {m.get('unit', '')}".strip()

    def claim(why: str, *, held: bool = False) -> Claim:
        return Claim(figure=figure, value=value, held=held, why=why)

    if m["objective"] == "size":
        size = manifest["weights"]["bytes"]
        if m["value"] != size:
            raise BrokenBundleError(f"the size is said to be {value}, and {size} bytes are stored")
        return claim("counted in the file", held=True)
    if m["provenance"] == Provenance.MEASURED:
        where = "on that device" if m.get("target") else "by its training"
        return claim(f"measured {where}")
    if again is None:
        return claim(why_not or f"{m['provenance']}; nothing of this kind comes out here")
    if again.value == m["value"]:
        return claim(f"{again.provenance} again, equal", held=True)
    differs = _differing(manifest)
    if not differs:
        raise BrokenBundleError(f"{figure} is said to be {value}, and {again.value:.6g} comes out")
    return claim(f"{again.value:.6g} comes out here, with another {differs}")


def _again(
    manifest: Mapping[str, Any], bench: Workbench | None
) -> tuple[dict[tuple[str, str | None], Measurement], str]:
    """Compiled and modelled figures, computed here; or why there are none."""
    device, name = manifest.get("device"), str(manifest["target"])
    if bench is None:
        return {}, "it takes the task's code: name it with --task or --task-path"
    if device is None:
        return {}, "the bundle is of an earlier version, and does not say how it was obtained"
    if device["elsewhere"]:
        return {}, "it was found on another machine, beside the device"
    if device["parts"]:
        return {}, "it was priced from parts, which depend on what else was compiled"
    if name not in profile_names():
        return {}, "its hardware profile is the exporter's own"
    try:
        profile = load_profile(name)
        target = Target.of(name, batch=device["batch"], grid=device["grid"], measure=False)
        measured = profile.mode == "measured" if device["measure"] is None else device["measure"]
        candidate = manifest["candidate"]
        with users_code("the candidate's program"):
            if measured:  # all but its memory
                program = lower_for(profile, bench, candidate, target.batch).compile()
                found = [memory_of(target, program.described)]
            else:
                found = list(TargetsEvaluator(bench, [target]).evaluate(candidate, 0).measurements)
    except UsageError as error:
        return {}, f"it cannot be computed here: {error}"
    return {(m.objective, m.target): m for m in found}, ""


def _differing(manifest: Mapping[str, Any]) -> str:
    """What differs of that on which compiled and modelled figures depend; empty: nothing."""
    then = manifest["device"]["scored_with"]
    now = {**versions(), **machine(), "cost_model": COST_MODEL}
    profile = load_profile(str(manifest["target"]))
    differing = [key for key in _SAME if then.get(key) != now.get(key)]
    if manifest["device"]["profile"] != _digest(stated(profile.model_dump(mode="json"))):
        differing.append("hardware profile")
    return ", ".join(differing)


def _digest(profile: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(profile, sort_keys=True).encode()).hexdigest()
