"""A worker in a Ray process of its own, and the devices elsewhere that it measures on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayError, RayTaskError

from paretax.errors import UsageError
from paretax.evaluators import Evaluation, Failure, Reason, Target
from paretax.evaluators.runtime import apply_worker_environment
from paretax.search.executors.pulse import Sender
from paretax.search.worker import Worker, WorkerSpec


class Actor:
    """A worker, as Ray starts it.

    Args:
        spec: of the worker.
        devices: actors beside the devices that are not on this machine, by target.
        task: what `packed` made of the task; None: it is imported.
        sender: of signs of life; None: nobody listens.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        devices: Mapping[str, Any],
        task: bytes | None = None,
        sender: Sender | None = None,
    ) -> None:
        if sender is not None:
            sender.start()
        apply_worker_environment()
        if task is not None:
            folders, pickled = cloudpickle.loads(task)
            sys.path += [folder for folder in folders if folder not in sys.path]
            spec = replace(spec, value=cloudpickle.loads(pickled))
        away = [t for t in spec.targets if t.accelerator_type is not None]
        self._worker = Worker(spec, [AwayEvaluator(t, devices[t.profile.name]) for t in away])

    @ray.method(num_returns="streaming")
    def run(self, kind: str, calls: Sequence[tuple[Any, ...]]) -> Iterator[Evaluation]:
        """Run one of the worker's methods, call by call."""
        yield from self._worker.run(kind, calls)

    def score(self, candidate: Mapping[str, Any], seed: int) -> Evaluation:
        """All that needs no training, of one candidate."""
        return next(self._worker.run("score", [(candidate, seed)]))

    def ready(self) -> Place:
        """Where this worker is; for waiting until it has loaded."""
        return Place(node=ray.get_runtime_context().get_node_id(), pid=os.getpid())


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker is.

    Args:
        node: Ray's name of the machine.
        pid: of the process there.
    """

    node: str
    pid: int


class AwayEvaluator:
    """Measures candidates on a device of another machine of the cluster.

    Args:
        target: the device.
        actor: the `Actor` that is there.
    """

    def __init__(self, target: Target, actor: Any) -> None:
        self._target, self._actor = target, actor
        self.provides = target.provides

    def evaluate(self, candidate: Mapping[str, Any], seed: int) -> Evaluation:
        """What a worker beside the device says of it."""
        try:
            found: Evaluation = ray.get(self._actor.score.remote(candidate, seed))
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None
        except RayError as error:
            message = f"the worker at {self._target.profile.name} died: {error}".splitlines()[0]
            return Evaluation(failure=Failure(reason=Reason.WORKER_LOST, message=message))
        there = (m for m in found.measurements if m.target == self._target.profile.name)
        return Evaluation(measurements=tuple(there), failure=found.failure)


def packed(spec: WorkerSpec) -> bytes | None:
    """A task of a script or notebook as bytes, with its functions and classes; None: of a module.

    They go to the workers through Ray alone, and are never read from a file.

    Raises:
        UsageError: the task holds something that cannot be sent.
    """
    if spec.value is None:
        return None
    try:
        # The folders first: what the task imports may lie in one that the script has added.
        folders = [folder or str(Path.cwd()) for folder in (*sys.path, *spec.search_path)]
        found: bytes = cloudpickle.dumps((folders, cloudpickle.dumps(spec.value)))
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise UsageError(
            f"task {spec.task!r} cannot be sent to the workers ({type(error).__name__}: "
            f"{lines[0]}): make in `load` or `build` what cannot be sent, put the task into a "
            "module and name it module:attribute, or set executor: inline"
        ) from error
    return found


def device_options(target: Target) -> dict[str, Any]:
    """What Ray is asked for, so that an actor has a target's device.

    A device whose worker dies gets a new one, once, and what it did is tried again.
    """
    options: dict[str, Any] = {
        "num_cpus": 1,
        "accelerator_type": target.accelerator_type,
        "max_restarts": 1,
        "max_task_retries": 1,
    }
    if target.profile.platform == "cuda":
        options["num_gpus"] = 1
    elif target.profile.platform == "tpu":
        options["resources"] = {"TPU": 1}
    return options
