"""Evaluations on Ray actors, on this machine or on a cluster."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import signal
import socket
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    TaskCancelledError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from paretax.errors import UsageError
from paretax.evaluators import Evaluation, Failure, Reason, Target
from paretax.evaluators.course import MOST_LANES
from paretax.evaluators.runtime import (
    apply_worker_environment,
    trains_on_cpu,
    worker_environment,
)
from paretax.search.executors.actor import Actor, device_options, packed
from paretax.search.executors.dealing import MOST, Dealer
from paretax.search.executors.protocol import Call
from paretax.search.worker import WorkerSpec
from paretax.tasks.loading import OBJECT

_ATTEMPTS = 3  # how often an evaluation is tried whose worker is lost, be it by another cause
_RAISED = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b")  # ends a traceback
_STARTS = 5  # how often a worker is started that is killed before it has loaded
_START_SECONDS = 300.0  # for a worker to load JAX and the task's data
_NONE_LEFT = (
    f"no worker is left, and the cluster gave none within {_START_SECONDS:.0f} s: add a machine, "
    "and go on with --resume"
)


class RayExecutor:
    """Workers as actors, each a process that keeps its JAX and its compiled programs.

    A worker that dies is replaced, and what it did is tried twice more elsewhere. The others go on
    meanwhile, and without it where its machine is gone.

    Args:
        spec: of the workers.
        workers: how many.
        address: of a running cluster ("auto" finds it); None starts Ray on this machine.
        trial_seconds: after which an evaluation counts as timed out and its worker is replaced;
            None: never.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        workers: int,
        address: str | None = None,
        trial_seconds: float | None = None,
    ) -> None:
        self._task, self._spec = packed(spec), replace(spec, value=None)
        self._count = workers
        self._address = address
        self._trial_seconds = trial_seconds
        self._actors: list[Any] = []
        self._coming: dict[Any, _Start] = {}  # by the object that is there once it has loaded
        self._away = [t for t in spec.targets if t.accelerator_type is not None]
        self._devices: dict[str, Any] = {}
        self._shared: Any = None
        self._together = spec.axis == "batch" or (spec.axis == "auto" and not trains_on_cpu())
        self._dealer = Dealer(workers, MOST_LANES if self._together else MOST)
        self._started = False

    def __enter__(self) -> RayExecutor:
        if not ray.is_initialized():
            self._start_ray()
            self._started = True
        self._shared = ray.put(self._spec)  # once a machine, not once a worker
        try:
            self._devices = {t.profile.name: self._device(t) for t in self._away}
            for target in self._away:
                where = f"worker with an accelerator of type {target.accelerator_type!r}"
                self._wait_for([self._devices[target.profile.name]], where)
            self._actors = [self._actor(i) for i in range(self._count)]
            self._await_workers(range(self._count))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _wait_for(self, actors: Sequence[Any], what: str = "") -> None:
        """Until workers have loaded.

        Args:
            actors: the workers.
            what: they are, where they are not like all others.

        Raises:
            UsageError: they do not start, or not within five minutes.
        """
        try:
            waiting = [actor.ready.remote() for actor in actors]
            ray.get(waiting, timeout=_START_SECONDS)
        except GetTimeoutError:
            if what:
                raise UsageError(
                    f"the cluster gave no {what} within {_START_SECONDS:.0f} s: add a machine "
                    "that has one, or leave out `accelerator_type`"
                ) from None
            raise UsageError(
                f"the cluster gave no {len(actors)} workers within {_START_SECONDS:.0f} s: it has "
                f"{ray.cluster_resources().get('CPU', 0):.0f} CPUs; ask for fewer workers"
            ) from None
        except RayActorError as error:
            raise UsageError(f"the workers do not start: {_reason(error)}") from error

    def _await_workers(self, indices: Sequence[int]) -> None:
        """Until these workers have loaded; where one is killed meanwhile, they start again.

        Raises:
            UsageError: as `_wait_for`, or they were killed `_STARTS` times.
        """
        for attempt in range(1, _STARTS + 1):
            try:
                self._wait_for([self._actors[i] for i in indices])
                return
            except UsageError as error:
                cause = error.__cause__
                killed = isinstance(cause, RayActorError) and not cause.actor_init_failed
                if not killed or attempt == _STARTS:
                    raise
            for i in indices:
                ray.kill(self._actors[i])
                self._actors[i] = self._actor(i)

    def _start_ray(self) -> None:
        apply_worker_environment()  # which workers on this machine inherit
        logging.getLogger("ray").setLevel(logging.ERROR)
        settings: dict[str, Any] = {
            "include_dashboard": False,
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "namespace": "paretax",
        }
        with _signals_kept(), warnings.catch_warnings():
            # JAX warns of any fork in its process; Ray forks only to start programs at once.
            warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
            if self._address is None:
                _check_temporary_folder()
                # Ray makes its workers yield (nice 15) to all else: on a busy machine they would
                # hardly start, and what they measure would be of that.
                os.environ.setdefault("RAY_worker_niceness", "0")
                ray.init(address="local", num_cpus=self._count + len(self._away), **settings)
                return
            try:
                _check_reachable(self._address)
                modules = {"py_modules": self._modules()}
                ray.init(address=self._address, runtime_env=modules, **settings)
            except (OSError, ValueError) as error:
                raise UsageError(
                    f"there is no Ray cluster at {self._address!r} ({error}): "
                    "start one with `ray start --head`, or leave out --address"
                ) from error

    def _actor(self, index: int) -> Any:
        """The first worker is on the driver's machine: it measures the local CPU."""
        options: dict[str, Any] = {"num_cpus": 1}
        if self._address is not None:  # on this machine they have the driver's environment
            options["runtime_env"] = {"env_vars": worker_environment()}
        if index == 0:
            node = ray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
        return ray.remote(Actor).options(**options).remote(self._shared, self._devices, self._task)

    def _device(self, target: Target) -> Any:
        """A worker beside a device, wherever the cluster has it.

        Raises:
            UsageError: Ray was started on this machine alone, and it has no such device.
        """
        kind = target.accelerator_type
        if self._address is None and f"accelerator_type:{kind}" not in ray.cluster_resources():
            raise UsageError(
                f"target {target.profile.name!r} is to be measured on {kind!r}, and this machine "
                "has none that Ray knows: give the --address of a cluster that has, or leave out "
                "`accelerator_type`"
            )
        spec = replace(self._spec, targets=(replace(target, accelerator_type=None),))
        options = device_options(target)
        platforms = {"JAX_PLATFORMS": ",".join(dict.fromkeys((target.profile.platform, "cpu")))}
        options["runtime_env"] = {"env_vars": worker_environment() | platforms}
        return ray.remote(Actor).options(**options).remote(spec, {}, self._task)

    def _modules(self) -> list[str]:
        """A user's own module or package, to be sent to the machines of a cluster."""
        module, _, attribute = self._spec.task.partition(":")
        top = module.partition(".")[0]
        none = not attribute or top in ("paretax", "__main__", OBJECT.rstrip(":"))
        found = None if none else importlib.util.find_spec(top)
        if found is None or found.origin is None:
            return []
        path = Path(found.origin)
        return [str(path.parent if path.name == "__init__.py" else path)]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for actor in (*self._actors, *self._devices.values()):
            ray.kill(actor)
        self._actors, self._devices, self._coming = [], {}, {}
        if self._started:
            ray.shutdown()
            self._started = False

    def run(
        self, calls: Sequence[Call], *, alone: bool = False
    ) -> Iterator[tuple[int, Evaluation]]:
        dealer, attempts = self._dealer, {call.trial: 1 for call in calls}
        dealer.add(calls)
        asked = [0] if alone else list(range(len(self._actors)))
        loading = {start.worker for start in self._coming.values()}
        free = deque(index for index in asked if index not in loading)
        running: dict[Any, _Batch] = {}  # by the stream of its evaluations
        while len(dealer) or running:
            for index in list(free):
                dealt = deque(dealer.deal(index))
                if dealt:
                    free.remove(index)
                    arguments = [call.arguments for call in dealt]
                    stream = self._actors[index].run.remote(dealt[0].kind, arguments)
                    running[stream] = _Batch(left=dealt, worker=index, since=time.monotonic())
            if not running and not free and time.monotonic() >= self._hope():
                raise UsageError(_NONE_LEFT)
            done, _ = ray.wait([*self._coming, *running], timeout=self._patience(running.values()))
            for stream in map(_as_stream, done):
                if stream in self._coming:
                    free.extend(index for index in self._came(stream) if index in asked)
                    continue
                batch = running[stream]
                try:
                    evaluation: Evaluation = ray.get(next(stream))
                except StopIteration:
                    del running[stream]
                    free.append(batch.worker)
                except RayError as error:
                    if isinstance(error, RayTaskError) and not _is_interrupted(error):
                        raise error.as_instanceof_cause() from None
                    del running[stream]
                    lost = self._lose(batch)
                    if lost is None:
                        continue
                    if attempts[lost.trial] < _ATTEMPTS:
                        attempts[lost.trial] += 1
                        dealer.add_single(lost)
                    else:
                        memory = isinstance(error, OutOfMemoryError)
                        reason = Reason.OUT_OF_MEMORY if memory else Reason.WORKER_LOST
                        message = f"its worker died {_ATTEMPTS} times: {_reason(error)}"
                        yield lost.trial, _failed(reason, message)
                else:
                    batch.since = time.monotonic()
                    yield batch.left.popleft().trial, evaluation
            yield from self._expired(running)

    def _lose(self, batch: _Batch) -> Call | None:
        """Replace a batch's worker; its other calls are dealt again, one by one.

        Returns:
            The call that the worker was at; None where it had come to the end of all.
        """
        lost = batch.left.popleft() if batch.left else None
        for call in batch.left:
            self._dealer.add_single(call)
        self._dealer.forget(batch.worker)
        self._start(_Start(worker=batch.worker, since=time.monotonic()))
        return lost

    def _start(self, start: _Start) -> None:
        """A new worker in the place of one; it gets no call before it has loaded."""
        ray.kill(self._actors[start.worker])
        self._actors[start.worker] = self._actor(start.worker)
        self._coming[self._actors[start.worker].ready.remote()] = start

    def _came(self, ready: Any) -> list[int]:
        """The worker that has loaded; none where it was killed meanwhile, and starts again.

        Raises:
            UsageError: it raises an error as it starts, or was killed `_STARTS` times.
        """
        start = self._coming.pop(ready)
        try:
            ray.get(ready)
        except RayActorError as error:
            if error.actor_init_failed or start.attempt == _STARTS:
                raise UsageError(f"the workers do not start: {_reason(error)}") from error
            self._start(replace(start, attempt=start.attempt + 1))
            return []
        return [start.worker]

    def _hope(self) -> float:
        """Until when a worker may still load: a cluster takes its time to find a place for one."""
        return _START_SECONDS + max((s.since for s in self._coming.values()), default=0.0)

    def _patience(self, running: Collection[_Batch]) -> float | None:
        """Seconds until something is late: a running call, or workers where none is left."""
        ends = [] if running else [self._hope()]
        if self._trial_seconds is not None:
            ends += [self._late(b) for b in running if b.left and b.left[0].kind != "test"]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _late(self, batch: _Batch) -> float:
        """When a batch's next evaluation is late; those of a population come all at once."""
        assert self._trial_seconds is not None
        expected = batch.left if self._together else [batch.left[0]]
        return batch.since + self._trial_seconds * len(expected)

    def _expired(self, running: dict[Any, _Batch]) -> Iterator[tuple[int, Evaluation]]:
        if self._trial_seconds is None:
            return
        now = time.monotonic()
        for stream, batch in list(running.items()):
            if not batch.left or batch.left[0].kind == "test":
                continue
            if now >= self._late(batch) and not ray.wait([stream], timeout=0)[0]:
                del running[stream]
                lost = self._lose(batch)
                assert lost is not None  # it has calls left
                message = f"it took longer than {self._trial_seconds:g} s"
                yield lost.trial, _failed(Reason.TIMEOUT, message)


@dataclass(kw_only=True)
class _Batch:
    """Calls that a worker is at, in their order, and when the first of them began."""

    left: deque[Call]
    worker: int
    since: float


@dataclass(frozen=True, kw_only=True)
class _Start:
    """A worker that loads in the place of one that was lost."""

    worker: int
    since: float
    attempt: int = 1


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Put back what SIGTERM does: Ray's own way ends the process with a stack of C++."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if main and before is not None:
            signal.signal(signal.SIGTERM, before)


def _check_temporary_folder() -> None:
    """Refuse a folder of temporary files whose name Ray cannot write.

    Raises:
        UsageError: names it.
    """
    place = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if not place.isascii():
        raise UsageError(
            f"Ray's temporary files must lie in a folder with an ASCII name, got {place!r}: set "
            "TMPDIR or RAY_TMPDIR to another one, or `executor: inline`"
        )


def _check_reachable(address: str) -> None:
    """Try a plain host:port first: Ray itself tries for minutes, and then ends the process.

    Raises:
        OSError: nothing listens there.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _is_interrupted(error: RayTaskError) -> bool:
    """Whether the task's code raised KeyboardInterrupt, which Ray takes for a cancelled task."""
    return isinstance(error, TaskCancelledError) or isinstance(error.cause, TaskCancelledError)


def _as_stream(ready: Any) -> Any:
    """What `ray.wait` gives back of a stream, which its types take for an object."""
    return ready


def _failed(reason: Reason, message: str) -> Evaluation:
    return Evaluation(failure=Failure(reason=reason, message=message))


def _reason(error: BaseException) -> str:
    """The first line of an error; of a worker that did not start, what its start raised."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if isinstance(error, RayActorError) and error.actor_init_failed:
        raised = [line for line in lines[1:] if _RAISED.match(line)]
        return (raised or lines)[-1].strip().removeprefix("paretax.errors.UsageError: ")
    return lines[0].strip()
