"""A small share of the faults, in a file of its own, so that other tests run beside it."""

from __future__ import annotations

from collections.abc import Callable

NONE = (
    "lost", "duplicates", "front_differs", "journal_believed", "bundle_believed", "tracebacks",
    "hangs", "hostile_believed", "code_runs",
)  # fmt: skip


def test_nothing_is_lost_and_nothing_believed(
    smoke: Callable[[str], dict[str, float]],
) -> None:
    figures = smoke("faults")
    assert {name: figures[name] for name in NONE} == dict.fromkeys(NONE, 0)
    assert figures["kills"] == 1
