"""Who does which call next: candidates that share programs go to a worker that has them."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable

from paretax.search.executors.protocol import Call

MOST = 16
"""Calls that a worker is given at once."""


class Dealer:
    """Deals calls to workers.

    A worker that is free gets, of the signatures that wait, the first that it has compiled; else
    one that nobody has; else it helps with the one of which most is left.

    Args:
        workers: how many there are.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._compiled: list[set[str]] = [set() for _ in range(workers)]
        self._waiting: OrderedDict[str, deque[Call]] = OrderedDict()
        self._single: deque[Call] = deque()

    def add(self, calls: Iterable[Call]) -> None:
        """Calls that wait from now on, in their order."""
        for call in calls:
            self._waiting.setdefault(call.signature, deque()).append(call)

    def add_single(self, call: Call) -> None:
        """A call that may have killed its worker, and is dealt alone."""
        self._single.append(call)

    def forget(self, worker: int) -> None:
        """A worker was replaced, and has compiled nothing."""
        self._compiled[worker].clear()

    def __len__(self) -> int:
        return len(self._single) + sum(map(len, self._waiting.values()))

    def deal(self, worker: int) -> list[Call]:
        """The next calls of a worker, all of one signature; none where nothing waits.

        Near the end they are few at a time, so that all workers end together.
        """
        if self._single:
            return [self._single.popleft()]
        if not self._waiting:
            return []
        signature = self._choose(worker)
        self._compiled[worker].add(signature)
        calls = self._waiting[signature]
        fair = -(-len(self) // (2 * self._workers))
        dealt = [calls.popleft() for _ in range(min(MOST, fair, len(calls)))]
        if not calls:
            del self._waiting[signature]
        return dealt

    def _choose(self, worker: int) -> str:
        for signature in self._waiting:
            if signature in self._compiled[worker]:
                return signature
        anywhere = set().union(*self._compiled)
        new = [signature for signature in self._waiting if signature not in anywhere]
        return max(new or self._waiting, key=lambda s: len(self._waiting[s]))
