"""Checks of samplers' options."""

from __future__ import annotations

from typing import Any

from paretax.errors import UsageError, shown

MOST = 100_000
"""Candidates of a batch: more would be drawn for minutes before the first is trained."""


def check_whole(what: str, value: Any, least: int) -> None:
    """Refuse anything but a whole number from `least` to `MOST`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
        raise UsageError(
            f"{what} must be a whole number from {least} to {MOST:,}, got {shown(value)}"
        )


def check_batch(value: Any) -> None:
    """Refuse a size of a batch that is neither None nor a whole number from 1."""
    if value is not None:
        check_whole("the batch", value, 1)


def check_probability(what: str, value: Any) -> None:
    """Refuse anything but a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UsageError(f"{what} must be a probability from 0 to 1, got {value!r}")
