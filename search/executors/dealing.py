"""Who does which call next: candidates that share programs go to a worker that has them."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable

from paretax.search.executors.protocol import Call

MOST = 16
"""Calls that a worker which does one after another is given at once."""


_Group = tuple[str, int | None]
"""A signature, and the worker that holds the trainings that go on; None: they begin."""


class Dealer:
    """Deals calls to workers.

    A training that goes on goes to the worker that holds it. Else a free worker gets, of the
    signatures that wait, the first that it has compiled; else one that nobody has; else it helps
    with the one of which most is left.

    Args:
        workers: how many there are.
        most: calls that a worker is given at once.
    """

    def __init__(self, workers: int, most: int = MOST) -> None:
        self._workers, self._most = workers, most
        self._compiled: list[set[str]] = [set() for _ in range(workers)]
        self._homes: dict[int, int] = {}
        self._waiting: OrderedDict[_Group, deque[Call]] = OrderedDict()
        self._single: deque[Call] = deque()

    def add(self, calls: Iterable[Call]) -> None:
        """Calls that wait from now on, in their order."""
        for call in calls:
            group = call.signature, self._homes.get(call.trial)
            self._waiting.setdefault(group, deque()).append(call)

    def add_single(self, call: Call) -> None:
        """A call that may have killed its worker, and is dealt alone."""
        self._single.append(call)

    def forget(self, worker: int) -> None:
        """A worker was replaced: it has compiled nothing, and holds no training."""
        self._compiled[worker].clear()
        self._homes = {t: home for t, home in self._homes.items() if home != worker}
        waiting = [call for calls in self._waiting.values() for call in calls]
        self._waiting.clear()
        self.add(waiting)

    def __len__(self) -> int:
        return len(self._single) + sum(map(len, self._waiting.values()))

    def deal(self, worker: int) -> list[Call]:
        """The next calls of a worker, all of one signature; none where nothing waits for it.

        Near the end they are few at a time, so that all workers end together.
        """
        if self._single:
            return self._noted([self._single.popleft()], worker)
        group = self._choose(worker)
        if group is None:
            return []
        calls = self._waiting[group]
        fair = -(-len(self) // (2 * self._workers)) if group[1] is None else self._most
        dealt = [calls.popleft() for _ in range(min(self._most, fair, len(calls)))]
        if not calls:
            del self._waiting[group]
        return self._noted(dealt, worker)

    def _noted(self, dealt: list[Call], worker: int) -> list[Call]:
        self._compiled[worker].add(dealt[0].signature)
        for call in dealt:
            if call.kind == "advance":
                self._homes[call.trial] = worker
            else:
                self._homes.pop(call.trial, None)
        return dealt

    def _choose(self, worker: int) -> _Group | None:
        for group in self._waiting:
            if group[1] == worker:
                return group
        free = [group for group in self._waiting if group[1] is None]
        for group in free:
            if group[0] in self._compiled[worker]:
                return group
        anywhere = set().union(*self._compiled)
        new = [group for group in free if group[0] not in anywhere]
        return max(new or free, key=lambda g: len(self._waiting[g]), default=None)
