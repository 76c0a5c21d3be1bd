"""Signals that arrive while Ray starts."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from paretax.search.executors.starting import _signals_kept


class Told(Exception):
    """By the handler of this test."""


@pytest.fixture
def handler() -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise Told(number)

    before = signal.signal(signal.SIGTERM, end)
    yield
    signal.signal(signal.SIGTERM, before)


def rays(number: int, frame: FrameType | None) -> None:
    """What Ray's own handler does."""
    raise SystemExit(number)


def test_a_signal_that_ray_took_is_sent_again(handler: None) -> None:
    mine = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Told), _signals_kept():
        signal.signal(signal.SIGTERM, rays)
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is mine


def test_other_exits_stay(handler: None) -> None:
    mine = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, _signals_kept():
        signal.signal(signal.SIGTERM, rays)
        raise SystemExit(3)
    assert caught.value.code == 3
    assert signal.getsignal(signal.SIGTERM) is mine
