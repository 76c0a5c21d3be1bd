"""Signals that arrive while Ray starts."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from paretax.search.executors.starting import _signals_kept


class ToldError(Exception):
    """By the handler of this test."""


@pytest.fixture
def handler() -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise ToldError(number)

    before = signal.signal(signal.SIGTERM, end)
    yield
    signal.signal(signal.SIGTERM, before)


def rays(number: int, frame: FrameType | None) -> None:
    """What Ray's own handler does."""
    raise SystemExit(number)


def start(ends: int | None) -> None:
    """Ray, as it starts: it takes the signal, and the process is told to end, or ends itself."""
    with _signals_kept():
        signal.signal(signal.SIGTERM, rays)
        if ends is None:
            signal.raise_signal(signal.SIGTERM)
        raise SystemExit(ends)


def test_a_signal_that_ray_took_is_sent_again(handler: None) -> None:
    mine = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ToldError):
        start(None)
    assert signal.getsignal(signal.SIGTERM) is mine


def test_other_exits_stay(handler: None) -> None:
    mine = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        start(3)
    assert caught.value.code == 3
    assert signal.getsignal(signal.SIGTERM) is mine
