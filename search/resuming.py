"""Going on with a run that is there: only as it was begun."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from paretax.errors import UsageError
from paretax.evaluators import Lesson
from paretax.evaluators.runtime import machine, versions
from paretax.evaluators.targets import COST_MODEL
from paretax.hardware_profiles.profile import stated
from paretax.results.fingerprint import check_fingerprint, differences
from paretax.results.journal import FORMAT, has_events
from paretax.results.run import Run
from paretax.search.baseline import others_have
from paretax.search.finishing import to_repeat
from paretax.search.planning import Plan


def run_so_far(out: Path, plan: Plan, force_data: bool) -> Run | None:
    """The run so far; None where its driver was killed before the first event."""
    if not has_events(out):
        return None
    run = Run.open(out)
    _check_same(run, plan)
    check_fingerprint(out, run.fingerprint(), plan.fingerprint, insist=force_data)
    return run


def resumed(run: Run, plan: Plan) -> dict[str, Any]:
    """The event of a resumption; with the fingerprint where the run had another one, or none."""
    event = {"event": "resumed", "time": time.time(), "machine": machine()}
    then = run.fingerprint()
    forced = {} if then is None else {"forced": differences(then, plan.fingerprint)}
    if then is None or forced["forced"]:
        event |= {"fingerprint": plan.fingerprint, **forced}
    return event


def taught(lesson: Lesson, file: str) -> dict[str, Any]:
    """The event of what a teacher said, and of the SHA-256 of the file that holds it."""
    about = {"key": lesson.key, "teacher": lesson.teacher, "validation": lesson.score}
    about["file"] = file
    return {"event": "taught", **about}


def unfinished(run: Run, plan: Plan) -> bool:
    """Whether a run has anything left to do."""
    trials = plan.trials
    baseline = [t for t in run.trials if t.baseline and t.trained]
    contenders = [t for name in run.targets for t in run.contenders(name)]
    to_test = [t for name in run.targets for t in run.front(name)]
    return (
        trials is None
        or len(run.trials) < trials
        or not all(t.done for t in run.trials)
        or bool(to_repeat([*contenders, *baseline], plan.config.final_seeds))
        or not all(t.tested for t in [*to_test, *baseline])
    )


def header(plan: Plan) -> dict[str, Any]:
    """The first event of a run."""
    return {
        "event": "run",
        "format": FORMAT,
        "time": time.time(),
        "config": plan.config.model_dump(mode="json"),
        "objectives": [o.to_json() for o in plan.objectives],
        "limits": [o.to_json() for o in plan.limits],
        "profiles": _profiles(plan),
        "cost_model": COST_MODEL,
        "search_path": [str(p) for p in plan.search_path],
        "versions": versions(),
        "paretax": versions().get("paretax"),
        "machine": machine(),
        "fingerprint": plan.fingerprint,
        "others_have": others_have(plan.space, plan.bench.task, plan.baseline),
    }


def _profiles(plan: Plan) -> dict[str, Any]:
    return {t.profile.name: t.profile.model_dump(mode="json") for t in plan.targets}


_MUST_STAY = ("processor", "xla_flags", "jaxlib")  # what latencies and trained bits depend on
_MAY_CHANGE = {"budget", "final_seeds", "workers", "executor", "trial_seconds"}


def _check_same(run: Run, plan: Plan) -> None:
    there = {**run.header["versions"], **run.header["machine"]}
    here = {**versions(), **machine()}
    for key in _MUST_STAY:
        if here.get(key) != there.get(key):
            raise UsageError(
                f"the run {str(run.folder)!r} was measured with {key} {there.get(key)!r}, and here "
                f"it is {here.get(key)!r}, so the figures would not compare: resume it there, or "
                "start a new run"
            )
    for name, profile in _profiles(plan).items():
        if stated(run.header["profiles"].get(name, {})) != stated(profile):
            raise UsageError(
                f"the run {str(run.folder)!r} was scored with another profile of {name!r}, so the "
                "figures would not compare: resume it with that profile, or start a new run"
            )
    modelled = [t.profile.name for t in plan.targets if not t.measure]
    if modelled and run.header.get("cost_model") != COST_MODEL:
        raise UsageError(
            f"the costs on {', '.join(modelled)} of the run {str(run.folder)!r} were modelled by "
            "another version of paretax, so the figures would not compare: resume it with that "
            "version, or start a new run"
        )
    now, then = plan.config.model_dump(mode="json"), run.header["config"]
    for key in now:
        if key not in _MAY_CHANGE and json.dumps(now[key]) != json.dumps(then.get(key)):
            raise UsageError(
                f"the run {str(run.folder)!r} was started with another {key!r}: resume it with the "
                "config it was started with, or start a new one with another --out"
            )
