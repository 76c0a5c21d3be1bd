"""Everything that can be checked of a search before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from paretax.errors import UsageError
from paretax.evaluators import Objective, Workbench
from paretax.evaluators.runtime import apply_worker_environment
from paretax.search.config import SearchConfig
from paretax.search.samplers import Sampler, make_sampler
from paretax.spaces import SETTINGS, Candidate, Space, check_space
from paretax.spaces.dimensions import choose
from paretax.tasks import load_task

_MODELS = 8  # random candidates of which one must build before a search starts


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A search that was checked, and may start.

    Args:
        config: what the user asked for.
        space: parsed from it.
        objectives: what is traded off.
        limits: everything with a hard limit.
        sampler: proposes candidates.
        metric: name of the task's metric.
        search_path: folders from which the task is imported.
    """

    config: SearchConfig
    space: Space
    objectives: tuple[Objective, ...]
    limits: tuple[Objective, ...]
    sampler: Sampler
    metric: str
    search_path: tuple[Path, ...]


def plan(config: SearchConfig, search_path: Sequence[Path] = ()) -> Plan:
    """Check everything that can be checked before anything is written.

    Raises:
        UsageError: a config, space, task, or data that cannot work.
    """
    apply_worker_environment()  # before JAX first computes, which tracing a model does
    config.check_names()
    space = config.make_space()
    task = load_task(config.task, search_path)
    check_space(space, SETTINGS, task.defaults, task.name)
    objectives = config.make_objectives(task.metric)
    limits = config.make_limits(task.metric)
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
    _try_models(bench, space, np.random.default_rng(config.seed))
    return Plan(
        config=config,
        space=space,
        objectives=objectives,
        limits=limits,
        sampler=sampler,
        metric=task.metric.name,
        search_path=tuple(p.resolve() for p in search_path),
    )


def _try_models(bench: Workbench, space: Space, rng: np.random.Generator) -> None:
    """Trace a model and its loss, so that what is wrong with all of them shows at once.

    A space may hold candidates that the task refuses: one of eight random ones must do.
    """
    for attempt in range(_MODELS):
        candidate = space.sample(rng)
        try:
            _try_model(bench, candidate)
            return
        except Exception as error:
            if attempt == _MODELS - 1:
                raise UsageError(
                    f"task {bench.task.name!r} fails for all of {_MODELS} random candidates, the "
                    f"last {dict(candidate)} with {type(error).__name__}: {error}"
                ) from error


def _try_model(bench: Workbench, candidate: Candidate) -> None:
    prepared = bench.prepared(candidate)
    targets = bench.data.train.targets
    batch = jax.ShapeDtypeStruct((2, *targets.shape[1:]), targets.dtype)
    loss = jax.eval_shape(bench.task.loss, prepared.outputs, batch)
    if not isinstance(loss, jax.ShapeDtypeStruct) or loss.shape != ():
        raise UsageError(f"the loss must be a scalar, got {loss}")
