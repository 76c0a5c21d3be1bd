"""Evaluations in the process of the driver: for debugging, and for fast tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType

from paretax.evaluators import Evaluation
from paretax.search.executors.protocol import Call
from paretax.search.worker import Worker, WorkerSpec


class InlineExecutor:
    """One worker, called directly; an exception in it is an exception here.

    Args:
        spec: of the worker.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._worker: Worker | None = None

    def __enter__(self) -> InlineExecutor:
        self._worker = Worker(self._spec)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._worker = None

    def run(
        self, calls: Sequence[Call], *, alone: bool = False
    ) -> Iterator[tuple[int, Evaluation]]:
        for call in calls:
            method = getattr(self._worker, call.kind)
            yield call.trial, method(call.candidate, call.seed, *call.extra)
