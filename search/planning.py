"""Everything that can be checked of a search before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np

from paretax.errors import UsageError, described
from paretax.evaluators import Objective, Prepared, Target, Workbench
from paretax.evaluators.runtime import apply_worker_environment
from paretax.evaluators.tokens import check_tokens
from paretax.results.fingerprint import Fingerprint, fingerprint
from paretax.results.rehearsing import rehearse
from paretax.results.teaching import Teacher, check_teacher, parse_teacher
from paretax.search.baseline import is_within, make_baseline
from paretax.search.config import SearchConfig
from paretax.search.rungs import Rungs
from paretax.search.samplers import Sampler, make_sampler
from paretax.spaces import SETTINGS, Candidate, Space, check_space, dimension_of
from paretax.spaces.coverage import check_precision
from paretax.spaces.dimensions import choose
from paretax.spaces.rules import check_rules, setting_of
from paretax.tasks import load_task
from paretax.tasks.loading import hold_task, name_of
from paretax.tasks.outputs import check_distillation
from paretax.tasks.probing import check_targets

_DRAWS = 200  # candidates that show whether a parameter ever counts
_MODELS = 8  # random candidates of which one must build before a search starts


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A search that was checked, and may start.

    Args:
        config: what the user asked for.
        space: parsed from it.
        objectives: what is traded off.
        limits: everything with a hard limit.
        targets: the devices.
        sampler: proposes candidates.
        metric: name of the task's metric.
        search_path: folders from which the task is imported.
        bench: the task, loaded.
        teacher: of the candidates that distil; None where none does.
        rungs: where trainings are stopped early; None: nowhere.
        fingerprint: of the data and the task's code.
        baseline: the user's own configuration, dense, which is trial 0.
    """

    config: SearchConfig
    space: Space
    objectives: tuple[Objective, ...]
    limits: tuple[Objective, ...]
    targets: tuple[Target, ...]
    sampler: Sampler
    metric: str
    search_path: tuple[Path, ...]
    bench: Workbench
    teacher: Teacher | None
    rungs: Rungs | None
    fingerprint: Fingerprint
    baseline: Candidate

    @property
    def baseline_is_within(self) -> bool:
        """Whether the baseline is one of the space's candidates."""
        return is_within(self.space, self.baseline)

    @property
    def trials(self) -> int | None:
        """How many there are in all, with the baseline; at least one is of the space."""
        most = self.config.budget.trials
        return None if most is None else max(most, 1 if self.baseline_is_within else 2)


def plan(config: SearchConfig, search_path: Sequence[Path | str] = ()) -> Plan:
    """Check everything that can be checked before anything is written.

    Raises:
        UsageError: a config, space, task, or data that cannot work.
    """
    apply_worker_environment()  # before JAX first computes, which tracing a model does
    config.check_names()
    space = config.make_space()
    task = load_task(config.task, search_path)
    hold_task(config.task, task)
    check_space(space, SETTINGS, task.defaults, task.name)
    objectives = config.make_objectives(task.metric)
    limits = config.make_limits(task.metric)
    targets = config.make_targets()
    sampler = make_sampler(config.sampler.name, config.sampler.options)
    bench = Workbench(task)
    examples = len(bench.data.train)
    sizes = (
        space["batch_size"].grid(1000)
        if "batch_size" in space
        else [choose(SETTINGS, {})["batch_size"]]
    )
    if int(max(sizes)) > examples:
        raise UsageError(
            f"batch_size must not exceed the {examples} training examples, "
            f"got up to {max(sizes)}: lower it"
        )
    _check_missing_values(bench, space)
    folders = tuple(Path(p).resolve() for p in search_path)
    teacher = _teacher(config, space, folders)
    tried = _try_models(bench, space, np.random.default_rng(config.seed))
    baseline = make_baseline(space, task, config.baseline)
    if config.baseline is not None:
        _try_baseline(bench, baseline)
    check_rules([p.name for p in space], [model.sites for model in tried])
    if any(setting_of(p.name) == "precision" for p in space):
        rng = np.random.default_rng(config.seed)
        check_precision([space.sample(rng) for _ in range(_DRAWS)], [m.sites for m in tried])
    _rehearse(bench, space, baseline, targets, np.random.default_rng(config.seed))
    if teacher is not None:
        check_teacher(bench, teacher, tuple(tried[0].outputs.shape[1:]))
        if "alpha" not in space or max(map(float, space["alpha"].grid(2))) > 0:
            check_distillation(task, tried[0].outputs, temperature="temperature" in space)
    return Plan(
        config=config,
        space=space,
        objectives=objectives,
        limits=limits,
        targets=targets,
        sampler=sampler,
        metric=task.metric.name,
        search_path=folders,
        bench=bench,
        teacher=teacher,
        rungs=None if config.rungs is None else Rungs(config.rungs.first, config.rungs.factor),
        fingerprint=fingerprint(bench, name_of(config.task), folders),
        baseline=baseline,
    )


def _check_missing_values(bench: Workbench, space: Space) -> None:
    """Refuse a space that leaves NaN in the inputs."""
    data = bench.data
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    for name, split in splits.items():
        if split.inputs.dtype.kind != "f" or not np.isnan(split.inputs).any():
            continue
        values = space["imputation"].grid(100) if "imputation" in space else ("none",)
        if "none" in values:
            count = int(np.isnan(split.inputs).sum())
            raise UsageError(
                f"the {name} inputs of task {bench.task.name!r} have {count} missing values (NaN), "
                "and the space can leave them: set `imputation` to mean, median, most_frequent "
                "or knn"
            )


def _teacher(config: SearchConfig, space: Space, folders: Sequence[Path]) -> Teacher | None:
    """The teacher, which must be there where candidates distil, and nowhere else."""
    distils = "distill" in space and True in space["distill"].grid(2)
    if config.teacher is None:
        if distils:
            raise UsageError(
                "distill: true needs a teacher: add `teacher` to the config, with the `candidate` "
                "that it is, or the `program`"
            )
        return None
    if not distils:
        raise UsageError("the config has a `teacher`, and no candidate distils: add distill: true")
    teacher = parse_teacher(config.teacher.model_dump(), folders)
    weights = space["feature_weight"].grid(2) if "feature_weight" in space else (0.0,)
    if teacher.program is not None and min(map(float, weights)) > 0:
        raise UsageError(
            "feature_weight needs a teacher whose layers can be seen, and a program's cannot: "
            "leave it out, or give the teacher as a candidate"
        )
    return teacher


def _try_models(bench: Workbench, space: Space, rng: np.random.Generator) -> list[Prepared]:
    """Trace some models and their losses, so that what is wrong with all of them shows at once.

    A space may hold candidates that the task refuses: one of eight random ones must do.
    """
    found: list[Prepared] = []
    for attempt in range(_MODELS):
        candidate = space.sample(rng)
        try:
            found.append(_try_model(bench, candidate))
            if not any("@" in parameter.name for parameter in space):
                break  # only rules for some sites need to see more models
        except UsageError:
            if attempt == _MODELS - 1 and not found:
                raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if attempt == _MODELS - 1 and not found:
                raise UsageError(
                    f"task {bench.task.name!r} fails for all of {_MODELS} random candidates, the "
                    f"last {dict(candidate)} with {described(error)}"
                ) from error
    return found


def _try_baseline(bench: Workbench, baseline: Candidate) -> None:
    """Refuse a baseline that the user gave and that cannot be built."""
    try:
        _try_model(bench, baseline)
    except Exception as error:
        raise UsageError(
            f"the baseline {dict(baseline)} cannot be built: {error}; change `baseline`"
        ) from error


def _rehearse(
    bench: Workbench,
    space: Space,
    baseline: Candidate,
    targets: Sequence[Target],
    rng: np.random.Generator,
) -> None:
    """Try the way to a bundle on the baseline, or else on the first model that builds, dense."""
    drawn = (space.sample(rng) for _ in range(_MODELS))
    for candidate in (baseline, *map(partial(_dense, bench), drawn)):
        try:
            bench.deployed(candidate)
        except Exception:  # noqa: BLE001  `_try_models` has found one that builds
            continue
        rehearse(bench, candidate, [t.profile.platform for t in targets])
        return


def _dense(bench: Workbench, candidate: Candidate) -> Candidate:
    """A candidate's model and preprocessing, without all that is done to its weights."""
    kept = {*bench.task.defaults}
    return Candidate(
        {n: v for n, v in candidate.items() if n in kept or dimension_of(n) == "preprocessing"}
    )


def _try_model(bench: Workbench, candidate: Candidate) -> Prepared:
    prepared = bench.prepared(candidate)
    bench.check_training(candidate)
    check_targets(bench.task, bench.data.splits, prepared.outputs)
    check_tokens(prepared, bench.data.splits)
    targets = bench.data.train.targets
    batch = jax.ShapeDtypeStruct((2, *targets.shape[1:]), targets.dtype)
    loss = jax.eval_shape(bench.task.loss, prepared.outputs, batch)
    if not isinstance(loss, jax.ShapeDtypeStruct) or loss.shape != ():
        raise UsageError(f"the loss must be a scalar, got {loss}")
    return prepared
