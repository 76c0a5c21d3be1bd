"""What runs in a worker: one task, its compiled programs, its evaluators."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from paretax.errors import UsageError, described
from paretax.evaluators import (
    AccuracyEvaluator,
    Axis,
    Evaluation,
    Evaluator,
    Failure,
    Lesson,
    Measurement,
    Reason,
    Target,
    Workbench,
    cost_evaluators,
)
from paretax.evaluators.course import Course
from paretax.evaluators.lanes import DivergedError
from paretax.evaluators.targets import TargetsEvaluator
from paretax.spaces import Candidate
from paretax.tasks import Data, Task, load_task

_LONGEST = 20_000  # characters of a traceback that are kept, the last ones


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """What a worker is made from; plain data, so that it can be made anywhere.

    Args:
        task: name of the task.
        value: the task itself, where a worker cannot import it; None: it can.
        search_path: folders to import it from.
        targets: the devices.
        wanted: names of the objectives that are asked for.
        known: measurements of programs that need not be measured again.
        lesson: what the teacher says; None where there is none.
        data: of the task, as the driver has loaded it; None: the worker loads it.
        axis: how populations are trained.
    """

    task: str
    search_path: tuple[str, ...]
    targets: tuple[Target, ...]
    wanted: tuple[str, ...]
    known: tuple[Measurement, ...] = field(default=())
    lesson: Lesson | None = None
    data: Data | None = None
    axis: Axis = "auto"
    value: Task | None = None


class Worker:
    """Evaluates candidates one after another, and keeps what it compiled.

    What a user may expect to fail comes back as a `Failure`; an exception is misuse.

    Args:
        spec: what it is made from.
        away: evaluators of the targets that are measured elsewhere.
    """

    def __init__(self, spec: WorkerSpec, away: Iterable[Evaluator] = ()) -> None:
        named = spec.task if spec.value is None else spec.value
        self._bench = Workbench(load_task(named, map(Path, spec.search_path)), spec.data)
        here = [t for t in spec.targets if t.accelerator_type is None]
        self._costs = [*cost_evaluators(self._bench, here, spec.wanted, spec.known), *away]
        self._lesson, self._axis = spec.lesson, spec.axis
        self._accuracy: AccuracyEvaluator | None = None

    @property
    def _trainer(self) -> AccuracyEvaluator:
        if self._accuracy is None:
            self._accuracy = AccuracyEvaluator(self._bench, self._lesson, self._axis)
        return self._accuracy

    def run(self, kind: str, calls: Sequence[tuple[Any, ...]]) -> Iterator[Evaluation]:
        """The evaluations of calls of one of the methods below, each as soon as it is there.

        Args:
            kind: the method.
            calls: its arguments, call by call.
        """
        if kind in ("train", "advance", "repeat") and len(calls) > 1:
            epochs = calls[0][2] if kind == "advance" else None
            self._trainer.advance_together([(call[0], call[1]) for call in calls], epochs)
        for arguments in calls:
            yield getattr(self, kind)(*arguments)

    def score(self, candidate: Candidate, seed: int) -> Evaluation:
        """All that needs no training."""
        found: list[Measurement] = []
        for evaluator in self._costs:
            evaluation = _guarded(evaluator.evaluate, candidate, seed)
            found += evaluation.measurements
            if evaluation.failure is not None:
                return Evaluation(measurements=tuple(found), failure=evaluation.failure)
        return Evaluation(measurements=tuple(found))

    def advance(self, candidate: Candidate, seed: int, epochs: int) -> Evaluation:
        """The metric on the validation split after some epochs of a training, which stays here."""
        return _guarded(partial(self._trainer.advance, epochs=epochs), candidate, seed)

    def train(self, candidate: Candidate, seed: int) -> Evaluation:
        """The metric on the validation split, after a training; with the weights."""
        return _guarded(self._trainer.evaluate, candidate, seed)

    def repeat(self, candidate: Candidate, seed: int) -> Evaluation:
        """The metric on the validation split of a training with another seed; no weights."""
        return _guarded(self._trainer.repeat, candidate, seed)

    def test(
        self,
        candidate: Candidate,
        seed: int,
        weights: Mapping[str, np.ndarray] | None,
        recorded: float,
        course: Course = (),
    ) -> Evaluation:
        """The metric on the test split, of these weights, or of the same ones trained again.

        Trained again, the way that the training went, they must give the metric that was recorded
        on the validation split.
        """
        if weights is None:
            retraced = partial(self._trainer.evaluate, course=course)
            again = _guarded(retraced, candidate, seed)
            if again.failure is not None or again.measurements[0].value != recorded:
                now = again.failure or again.measurements[0].value
                message = f"it scored {recorded} in the search; trained again: {now}"
                return Evaluation(failure=Failure(reason=Reason.DIVERGED, message=message))
            weights = again.weights
        held = weights
        assert held is not None

        def score(candidate: Mapping[str, Any], seed: int) -> Evaluation:
            return Evaluation(measurements=(self._trainer.test(candidate, held),))

        tested = _guarded(score, candidate, seed)
        whole = _guarded(self._whole, candidate, seed)
        return Evaluation(
            measurements=(*tested.measurements, *whole.measurements) if tested.measurements else (),
            failure=tested.failure or whole.failure,
        )

    def _whole(self, candidate: Mapping[str, Any], seed: int) -> Evaluation:
        """What whole programs say of targets that are priced from parts."""
        found: list[Measurement] = []
        for evaluator in self._costs:
            if isinstance(evaluator, TargetsEvaluator):
                found += evaluator.whole(candidate)
        return Evaluation(measurements=tuple(found))


def _guarded(
    evaluate: Callable[[Mapping[str, Any], int], Evaluation],
    candidate: Mapping[str, Any],
    seed: int,
) -> Evaluation:
    """An evaluation in which a failing program or task is a `Failure`."""
    start = time.perf_counter()
    try:
        return evaluate(candidate, seed)
    except UsageError as error:
        failure = _failed(Reason.BUILD_ERROR, str(error))
    except DivergedError as error:
        failure = Failure(reason=Reason.DIVERGED, message=str(error))
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        exhausted = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
        reason = Reason.OUT_OF_MEMORY if exhausted else Reason.COMPILE_ERROR
        failure = _failed(reason, described(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if _is_told_to_end(error):
            raise
        failure = _failed(Reason.BUILD_ERROR, described(error))
    seconds = time.perf_counter() - start
    message = f"{failure.message} (after {seconds:.1f} s)"
    return Evaluation(failure=replace(failure, message=message))


def _failed(reason: Reason, message: str) -> Failure:
    """A failure by the exception that is being handled."""
    whole = traceback.format_exc()
    text = whole if len(whole) <= _LONGEST else f"...\n{whole[-_LONGEST:]}"
    return Failure(reason=reason, message=message, traceback=text)


def _is_told_to_end(error: BaseException) -> bool:
    """Whether an exception is Ray's, whose worker was told to end, and not of the task's code."""
    trace = error.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if isinstance(error, SystemExit) and module.partition(".")[0] == "ray":
            return True
        trace = trace.tb_next
    return False
