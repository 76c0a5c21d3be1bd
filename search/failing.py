"""What becomes of failures: their tracebacks are kept, and a search where all fail says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from paretax.evaluators import Evaluation
from paretax.results.trial import Trial
from paretax.search.executors.protocol import Call, Runner

FOLDER = "failures"
"""Of a run: a file for each trial that failed by an exception."""


class SearchError(RuntimeError):
    """The search cannot go on: nothing that it tries works."""


def check_hope(trials: Collection[Trial]) -> None:
    """Refuse to go on, or to end well, where no trial came to a score or to a limit.

    Raises:
        SearchError: says the commonest reason, and the last message with it.
    """
    failures = [t.failure for t in trials if t.failure is not None and not t.rejected]
    if not failures or len(failures) < len(trials):
        return
    reason, count = Counter(failure.reason for failure in failures).most_common(1)[0]
    last = [failure for failure in failures if failure.reason is reason][-1]
    raise SearchError(
        f"all of the first {len(trials)} trials failed, {count} of them with {reason}; the last of "
        f"these: {last.message}"
    )


class Keeping:
    """Runs calls, and writes the traceback of each failure to a file of the run.

    Args:
        executor: runs them.
        out: folder of the run.
    """

    def __init__(self, executor: Runner, out: Path) -> None:
        self._executor, self._folder = executor, out / FOLDER

    def run(
        self, calls: Sequence[Call], *, alone: bool = False
    ) -> Iterator[tuple[int, Evaluation]]:
        """As the executor does."""
        kinds = {call.trial: call.kind for call in calls}
        for number, evaluation in self._executor.run(calls, alone=alone):
            if evaluation.failure is not None and evaluation.failure.traceback:
                self._folder.mkdir(exist_ok=True)
                place = self._folder / f"{number}.txt"
                with place.open("a", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(f"{kinds[number]}:\n{evaluation.failure.traceback}\n")
            yield number, evaluation
