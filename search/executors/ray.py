"""Evaluations on Ray actors, on this machine or on a cluster."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import (
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
    TaskCancelledError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from paretax.errors import UsageError
from paretax.evaluators import Evaluation, Failure, Reason, Target
from paretax.evaluators.course import MOST_LANES
from paretax.evaluators.runtime import trains_on_cpu, worker_environment
from paretax.search.executors.actor import Actor, Place, device_options, packed
from paretax.search.executors.dealing import MOST, Dealer
from paretax.search.executors.protocol import Call
from paretax.search.executors.pulse import Pulse
from paretax.search.executors.reaping import Reaper
from paretax.search.executors.starting import start_ray
from paretax.search.executors.watching import Watch
from paretax.search.worker import WorkerSpec

_ATTEMPTS = 4  # how often an evaluation is tried whose worker is lost, be it by another cause
_RAISED = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b")  # ends a traceback
_STARTS = 5  # how often a worker is started that is killed before it has loaded
_START_SECONDS = 300.0  # for a worker to load JAX and the task's data
_SILENT_SECONDS = 60.0  # without a sign of life, after which a worker counts as lost
_LOOK_SECONDS = 1.0  # between two looks at who is alive
_NONE_LEFT = (
    f"no worker is left, and the cluster gave none within {_START_SECONDS:.0f} s: add a machine, "
    "and go on with --resume"
)


class RayExecutor:
    """Workers as actors, each a process that keeps its JAX and its compiled programs.

    A worker that dies, or gives no sign of life for a minute, is replaced, and what it did is tried
    three times more elsewhere. The others go on meanwhile, and without it where its machine is
    gone. Where Ray itself dies, `run` raises a ConnectionError.

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
        self._starts: dict[int, int] = {}  # the number of each worker's last start
        self._places: dict[int, Place] = {}  # of the workers that have loaded
        self._coming: dict[Any, _Start] = {}  # by the object that is there once it has loaded
        self._away = [t for t in spec.targets if t.accelerator_type is not None]
        self._devices: dict[str, Any] = {}
        self._shared: Any = None
        self._together = spec.axis == "batch" or (spec.axis == "auto" and not trains_on_cpu())
        self._dealer = Dealer(workers, MOST_LANES if self._together else MOST)
        self._started = False
        self._reaper: Reaper | None = None

    def __enter__(self) -> RayExecutor:
        if not ray.is_initialized():
            cpus = self._count + len(self._away)
            if self._address is None:
                self._reaper = Reaper()  # before Ray, which may be killed as it starts
            try:
                start_ray(address=self._address, cpus=cpus, task=self._spec.task)
            except BaseException:
                self._reap()
                raise
            self._started = True
        self._watch = Watch(own=self._reaper is not None)
        self._pulse = Pulse(self._watch.host)
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

    def _wait_for(self, actors: Sequence[Any], what: str = "") -> list[Place]:
        """Until workers have loaded.

        Args:
            actors: the workers.
            what: they are, where they are not like all others.

        Returns:
            Where they are.

        Raises:
            UsageError: they do not start, or not within five minutes.
        """
        waiting = [actor.ready.remote() for actor in actors]
        places: dict[Any, Place] = {}
        end = time.monotonic() + _START_SECONDS
        try:
            while left := [ready for ready in waiting if ready not in places]:
                for ready in ray.wait(left, timeout=_LOOK_SECONDS)[0]:
                    places[ready] = ray.get(ready)
                self._watch.check()
                if time.monotonic() >= end:
                    raise UsageError(_none_given(len(actors), what))
        except (RayActorError, RuntimeEnvSetupError) as error:
            raise UsageError(f"the workers do not start: {_reason(error)}") from error
        return [places[ready] for ready in waiting]

    def _await_workers(self, indices: Sequence[int]) -> None:
        """Until these workers have loaded; where one is killed meanwhile, they start again.

        Raises:
            UsageError: as `_wait_for`, or they were killed `_STARTS` times.
        """
        for attempt in range(1, _STARTS + 1):
            try:
                places = self._wait_for([self._actors[i] for i in indices])
                self._places.update(zip(indices, places, strict=True))
                return
            except UsageError as error:
                cause = error.__cause__
                killed = isinstance(cause, RayActorError) and not cause.actor_init_failed
                if not killed or attempt == _STARTS:
                    raise
            for i in indices:
                ray.kill(self._actors[i])
                self._actors[i] = self._actor(i)

    def _actor(self, index: int) -> Any:
        """The first worker is on the driver's machine: it measures the local CPU."""
        options: dict[str, Any] = {"num_cpus": 1}
        if self._address is not None:  # on this machine they have the driver's environment
            options["runtime_env"] = {"env_vars": worker_environment()}
        if index == 0:
            node = ray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
        sender = self._pulse.sender()
        self._starts[index] = sender.number
        made = ray.remote(Actor).options(**options)
        return made.remote(self._shared, self._devices, self._task, sender)

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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watch.last_look()
        if not self._watch.dead:  # else all calls of it wait for a minute
            for actor in (*self._actors, *self._devices.values()):
                ray.kill(actor)
        self._actors, self._devices, self._coming = [], {}, {}
        self._pulse.close()
        if self._started:
            ray.shutdown()
            self._started = False
        self._reap()

    def _reap(self) -> None:
        """Nothing of Ray is left then."""
        if self._reaper is not None:
            self._reaper.close()
            self._reaper = None

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
            patience = min(_LOOK_SECONDS, self._patience(running.values()))
            done, _ = ray.wait([*self._coming, *running], timeout=patience)
            self._watch.check()
            self._pulse.look()
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
                    yield from self._lost(batch, attempts, _failure_by(error))
                else:
                    batch.since = time.monotonic()
                    yield batch.left.popleft().trial, evaluation
            for stream, batch in self._silent(running):
                del running[stream]
                self._end(batch.worker)
                yield from self._lost(batch, attempts, _SILENT)
            yield from self._expired(running)

    def _lost(
        self, batch: _Batch, attempts: dict[int, int], failure: Failure
    ) -> Iterator[tuple[int, Evaluation]]:
        """What comes of a lost worker: its call is tried again, or was tried often enough."""
        said = self._pulse.last_words(self._starts[batch.worker])
        lost = self._lose(batch)
        if lost is None:
            return
        if attempts[lost.trial] < _ATTEMPTS:
            attempts[lost.trial] += 1
            self._dealer.add_single(lost)
            return
        why = said.partition("\n")[0] or failure.message
        message = f"its worker died {_ATTEMPTS} times: {why}"
        yield lost.trial, Evaluation(failure=replace(failure, message=message, traceback=said))

    def _silent(self, running: dict[Any, _Batch]) -> list[tuple[Any, _Batch]]:
        """Those at work whose worker gives no sign of life."""
        return [
            (stream, batch)
            for stream, batch in running.items()
            if self._pulse.silence(self._starts[batch.worker]) >= _SILENT_SECONDS
        ]

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
        self._pulse.forget(self._starts[start.worker])
        self._places.pop(start.worker, None)
        self._actors[start.worker] = self._actor(start.worker)
        self._coming[self._actors[start.worker].ready.remote()] = start

    def _came(self, ready: Any) -> list[int]:
        """The worker that has loaded; none where it was killed meanwhile, and starts again.

        Raises:
            UsageError: it raises an error as it starts, or was killed `_STARTS` times.
        """
        start = self._coming.pop(ready)
        try:
            self._places[start.worker] = ray.get(ready)
        except RuntimeEnvSetupError as error:
            raise UsageError(f"the workers do not start: {_reason(error)}") from error
        except RayActorError as error:
            if error.actor_init_failed or start.attempt == _STARTS:
                raise UsageError(f"the workers do not start: {_reason(error)}") from error
            self._start(replace(start, attempt=start.attempt + 1))
            return []
        return [start.worker]

    def _end(self, worker: int) -> None:
        """End a process for sure: one that was stopped does not do what Ray tells it."""
        place = self._places[worker]
        if place.node == self._watch.node:
            _kill(place.pid)
            return
        there = NodeAffinitySchedulingStrategy(place.node, soft=False)
        ray.remote(_kill).options(num_cpus=0, scheduling_strategy=there).remote(place.pid)

    def _hope(self) -> float:
        """Until when a worker may still load: a cluster takes its time to find a place for one."""
        return _START_SECONDS + max((s.since for s in self._coming.values()), default=0.0)

    def _patience(self, running: Collection[_Batch]) -> float:
        """Seconds until something is late: a running call, or workers where none is left."""
        ends = [] if running else [self._hope()]
        if self._trial_seconds is not None:
            ends += [self._late(b) for b in running if b.left and b.left[0].kind != "test"]
        return max(0.0, min(ends, default=float("inf")) - time.monotonic())

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
                self._end(batch.worker)
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


def _is_interrupted(error: RayTaskError) -> bool:
    """Whether the task's code raised KeyboardInterrupt, which Ray takes for a cancelled task."""
    return isinstance(error, TaskCancelledError) or isinstance(error.cause, TaskCancelledError)


def _as_stream(ready: Any) -> Any:
    """What `ray.wait` gives back of a stream, which its types take for an object."""
    return ready


def _failed(reason: Reason, message: str) -> Evaluation:
    return Evaluation(failure=Failure(reason=reason, message=message))


_SILENT = Failure(
    reason=Reason.WORKER_LOST,
    message=f"it gave no sign of life for {_SILENT_SECONDS:.0f} s: it was stopped, or hangs",
)


def _failure_by(error: RayError) -> Failure:
    if isinstance(error, OutOfMemoryError):
        return Failure(reason=Reason.OUT_OF_MEMORY, message=_reason(error))
    if isinstance(error, RayTaskError):  # see `_is_interrupted`
        return Failure(reason=Reason.WORKER_LOST, message="its code raised KeyboardInterrupt")
    ended = isinstance(error, RayActorError)
    why = "it was killed (for want of memory?), or its own code ended it" if ended else ""
    return Failure(reason=Reason.WORKER_LOST, message=why or _reason(error))


def _none_given(count: int, what: str) -> str:
    """Why a search does not start that waits for workers, or for `what`."""
    if what:
        return (
            f"the cluster gave no {what} within {_START_SECONDS:.0f} s: add a machine "
            "that has one, or leave out `accelerator_type`"
        )
    return (
        f"the cluster gave no {count} workers within {_START_SECONDS:.0f} s: it has "
        f"{ray.cluster_resources().get('CPU', 0):.0f} CPUs; ask for fewer workers"
    )


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _reason(error: BaseException) -> str:
    """The first line of an error; of a worker that did not start, what its start raised."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if isinstance(error, RayActorError) and error.actor_init_failed:
        raised = [line for line in lines[1:] if _RAISED.match(line)]
        return (raised or lines)[-1].strip().removeprefix("paretax.errors.UsageError: ")
    return lines[0].strip()
