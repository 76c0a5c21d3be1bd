"""Evaluations in the process of the driver: for debugging, and for fast tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType

from paretax.evaluators import Evaluation
from paretax.evaluators.course import MOST_LANES
from paretax.search.executors.dealing import Dealer
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
        assert self._worker is not None
        dealer = Dealer(1, MOST_LANES)
        dealer.add(calls)
        while dealt := dealer.deal(0):
            found = self._worker.run(dealt[0].kind, [call.arguments for call in dealt])
            yield from zip((call.trial for call in dealt), found, strict=True)
