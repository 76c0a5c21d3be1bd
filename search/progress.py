"""What a running search tells of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a search stands.

    Args:
        phase: what it does at the moment.
        total: candidates in the budget; None where there is no such bound.
        asked: candidates proposed.
        done: trained within the limits.
        failed: could not be built, compiled or trained.
        rejected: broke a hard limit.
        stopped: dominated at a rung.
        front: candidates on the front of the first target.
        hypervolume: of that front, relative to the first batch; None before it is known.
        trouble: what is wrong with the baseline; None where nothing is.
    """

    phase: str
    total: int | None
    asked: int
    done: int
    failed: int
    rejected: int
    stopped: int
    front: int
    hypervolume: float | None
    trouble: str | None = None


class Progress(Protocol):
    """Is told whenever something changed."""

    def __call__(self, status: Status) -> None: ...


def silent(status: Status) -> None:
    """Shows nothing."""
