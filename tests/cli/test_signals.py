"""How a search ends that is told to by a signal: of a terminal, or of a machine that goes down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paretax.cli.failing import Ended, ended_once, leave

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """Whoever starts the tests may have some of them ignored."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # until Python has called the handler


def test_signals_while_it_ends_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as caught:
        leave(Ended(signal.SIGINT))
    send(signal.SIGINT)
    assert caught.value.code == 130
    sent: list[int] = []
    monkeypatch.setattr("os.kill", lambda _, number: sent.append(number))
    with pytest.raises(SystemExit):
        leave(Ended(signal.SIGTERM))
    assert sent == [signal.SIGTERM]
    with pytest.raises(SystemExit) as caught:
        leave(KeyboardInterrupt())  # of the task's own code
    assert caught.value.code == 130


@ended_once()
def made_plain() -> None:
    """Be told to end within a library that makes a KeyboardInterrupt of its own of that."""
    try:
        send(signal.SIGTERM)
    except Ended:
        raise KeyboardInterrupt from None


def test_a_signal_is_known_though_its_exception_was_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        made_plain()
    sent: list[int] = []
    monkeypatch.setattr("os.kill", lambda _, number: sent.append(number))
    with pytest.raises(SystemExit):
        leave(caught.value)
    assert sent == [signal.SIGTERM]
    with ended_once():
        pass
    with pytest.raises(SystemExit) as ended:
        leave(KeyboardInterrupt())
    assert ended.value.code == 130


@ended_once()
def work(number: int, cleaned: list[int]) -> None:
    """Be told to end, and again while cleaning up."""
    try:
        send(number)
        raise AssertionError("it went on")
    finally:
        for other in SIGNALS:
            send(other)
            cleaned.append(other)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_ends_and_the_next_ones_wait(number: signal.Signals) -> None:
    cleaned: list[int] = []
    with pytest.raises(Ended) as caught:
        work(number, cleaned)
    assert cleaned == list(SIGNALS)
    assert caught.value.number == number


def test_whoever_does_not_wait_any_longer_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paretax.cli.failing._IMPATIENT", 0.0)
    with ended_once():
        for _ in range(2):
            with pytest.raises(Ended):
                send(signal.SIGINT)


def test_without_a_signal_nothing_is_left_of_it() -> None:
    with ended_once():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_is_ignored_still_is() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ended_once():
        send(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


class Held:
    """Something whose end takes a while."""


@ended_once()
def drop() -> None:
    """Be told to end while something is taken apart, where Python drops exceptions."""
    held = Held()
    watch = weakref.ref(held, lambda _: send(signal.SIGINT))
    del held
    assert watch() is None
    time.sleep(5)
    raise AssertionError("it went on")


def test_a_signal_that_python_drops_is_sent_again() -> None:
    hook = sys.unraisablehook
    with pytest.raises(Ended):
        drop()
    assert sys.unraisablehook is hook


CONFIG = """
task: breast_cancer
objectives: [accuracy, size]
space: {width: {type: int, low: 1, high: 64}, epochs: 2, learning_rate: 0.01}
budget: {trials: 500}
sampler: random
workers: 1
"""


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["inline", "ray"])
@pytest.mark.parametrize("sent", [[signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT] * 3], ids=str)
def test_a_search_ends_cleanly_and_as_it_was_told(
    executor: str, sent: list[signal.Signals], tmp_path: Path
) -> None:
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(f"{CONFIG}executor: {executor}\n", "utf-8")
    command: list[Any] = [sys.executable, "-c", "from paretax.cli import program; program()"]
    command += ["search", config, "--out", run]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    journal = run / "journal.jsonl"
    while process.poll() is None and (
        not journal.exists() or journal.read_bytes().count(b"\n") < 9
    ):
        time.sleep(0.05)
    for number in sent:
        process.send_signal(number)
        time.sleep(0.1)
    _, printed = process.communicate(timeout=120)
    errors = printed.decode()
    expected = 130 if sent[0] == signal.SIGINT else -sent[0]
    assert process.returncode == expected, errors
    assert errors.startswith("stopped; nothing measured is lost. Go on with: paretax search"), (
        errors
    )
    assert errors.count("\n") == 1
