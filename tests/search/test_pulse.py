"""Signs of life between processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from paretax.search.executors.pulse import Pulse

CODE = """
import os, signal, sys, time
from paretax.search.executors.pulse import Sender
Sender(host="127.0.0.1", port={port}, word=bytes.fromhex({word!r}), number={number}).start()
print("started", flush=True)
{then}
"""


@pytest.fixture
def pulse() -> Iterator[Pulse]:
    found = Pulse("127.0.0.1")
    yield found
    found.close()


def started(pulse: Pulse, then: str) -> tuple[subprocess.Popen[str], int]:
    """A process that sends signs, and then does something; and the number of its start."""
    sender = pulse.sender()
    code = CODE.format(port=sender.port, word=sender.word.hex(), number=sender.number, then=then)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == "started\n"
    return process, sender.number


def test_whoever_lives_is_heard_and_whoever_is_stopped_is_not(pulse: Pulse) -> None:
    living, one = started(pulse, "time.sleep(60)")
    stopped, other = started(pulse, "time.sleep(0.2); os.kill(os.getpid(), signal.SIGSTOP)")
    try:
        end = time.monotonic() + 6
        while time.monotonic() < end:
            pulse.look()
            time.sleep(0.2)
        assert pulse.silence(one) < 3
        assert pulse.silence(other) > 4
    finally:
        for process in (living, stopped):
            process.kill()
            process.wait()
    pulse.forget(other)
    assert pulse.silence(other) == 0


def test_a_pause_of_whoever_listens_is_nobodys_silence(
    pulse: Pulse, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, number = started(pulse, "time.sleep(60)")
    time.sleep(0.5)
    pulse.look()
    process.kill()
    process.wait()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 3600)  # an hour of Ctrl-Z
    pulse.look()
    assert 0 < pulse.silence(number) <= 5


def test_who_was_never_heard_is_not_silent(pulse: Pulse) -> None:
    number = pulse.sender().number
    time.sleep(0.1)
    pulse.look()
    assert pulse.silence(number) == 0


@pytest.mark.parametrize(
    ("then", "words"),
    [
        ("import ctypes; time.sleep(0.2); ctypes.string_at(0)", "Segmentation fault"),
        ("time.sleep(0.2); os.abort()", "Aborted"),
        ("time.sleep(0.2); os._exit(3)", ""),
        ("time.sleep(0.2); os.kill(os.getpid(), signal.SIGKILL)", ""),
    ],
)
def test_a_crash_has_last_words(pulse: Pulse, then: str, words: str) -> None:
    process, number = started(pulse, then)
    process.wait()
    said = pulse.last_words(number)
    if not words:
        assert said == ""
        return
    first, *stack = said.splitlines()
    assert first == f"Fatal Python error: {words}"
    assert 'File "<string>"' in "".join(stack)
    pulse.forget(number)
    assert pulse.last_words(number) == ""


def test_an_address_that_is_not_of_this_machine_is_no_error() -> None:
    pulse = Pulse("203.0.113.1")  # of no machine, by RFC 5737
    assert pulse.sender().host == "203.0.113.1"
    pulse.look()
    pulse.close()


def test_a_stranger_is_not_heard(pulse: Pulse) -> None:
    sender = pulse.sender()
    wrong = type(sender)(host=sender.host, port=sender.port, word=b"x" * 16, number=sender.number)
    code = CODE.format(port=wrong.port, word=wrong.word.hex(), number=1, then="os.abort()")
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    pulse.look()
    assert pulse.last_words(sender.number) == ""
    assert pulse.silence(sender.number) == 0
