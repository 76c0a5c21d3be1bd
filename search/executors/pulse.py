"""Signs of life: each worker sends one every two seconds, and one that falls silent is noticed.

A process that was stopped, or that hangs within a call of C that keeps Python's lock, neither ends
nor fails; Ray waits for it. A sign is a datagram: nothing waits for it, and one may be lost. Where
none arrives at all (a network that lets none through), nobody counts as silent.

A process that crashes sends its last words by the same way: the signal that it got, and where.
"""

from __future__ import annotations

import faulthandler
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

_EVERY = 2.0  # seconds
_LONGEST = 5.0  # seconds that one look counts for at most: the driver itself may have been stopped
_ROOM = 2**20  # bytes of signs that wait; a crash sends its words in hundreds of small ones
_WORDS = 20_000  # characters of them that are kept

_sending: list[socket.socket] = []  # whose numbers the fault handler knows: never closed


@dataclass(frozen=True, kw_only=True)
class Sender:
    """What a worker needs to send signs of life.

    Args:
        host: of whoever listens.
        port: there.
        word: a secret, in front of each sign.
        number: of the worker's start; each start has another one.
    """

    host: str
    port: int
    word: bytes
    number: int

    def start(self) -> None:
        """Send from now on, until this process ends; where it crashes, where that was."""
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            out.connect((self.host, self.port))
        except OSError:  # no way there: nobody hears this worker, and nobody waits for that
            out.close()
            return
        _sending.append(out)
        faulthandler.enable(out.fileno(), all_threads=False)
        thread = threading.Thread(target=self._send, args=(out,), name="paretax-pulse", daemon=True)
        thread.start()

    def _send(self, out: socket.socket) -> None:
        while True:
            with suppress(OSError):  # one that is not sent is not heard, which is what it is for
                out.send(self.word + self.number.to_bytes(8, "big"))
            time.sleep(_EVERY)


class Pulse:
    """Listens for the signs of workers.

    Args:
        host: this machine, as the workers reach it.
    """

    def __init__(self, host: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
        try:
            self._socket.bind((host, 0))
        except OSError:  # the address that others reach is not one of this machine's own
            self._socket.bind(("", 0))
        self._socket.setblocking(False)
        self._host = host
        self._word = secrets.token_bytes(16)
        self._quiet: dict[int, float] = {}  # seconds, by the number of the start
        self._from: dict[tuple[str, int], int] = {}
        self._last: dict[int, str] = {}
        self._looked = time.monotonic()
        self._started = 0

    def sender(self) -> Sender:
        """For the next worker that starts."""
        _, port = self._socket.getsockname()
        self._started += 1
        return Sender(host=self._host, port=port, word=self._word, number=self._started)

    def look(self) -> None:
        """Hear what has arrived; to be called every second or so."""
        now = time.monotonic()
        passed, self._looked = min(_LONGEST, now - self._looked), now
        for number in self._quiet:
            self._quiet[number] += passed
        while True:
            try:
                said, sender = self._socket.recvfrom(4096)
            except BlockingIOError:
                return
            if len(said) == len(self._word) + 8 and said.startswith(self._word):
                number = int.from_bytes(said[-8:], "big")
                self._quiet[number], self._from[sender] = 0.0, number
            elif sender in self._from:
                number = self._from[sender]
                words = self._last.get(number, "") + said.decode("utf-8", "replace")
                self._last[number] = words[:_WORDS]

    def silence(self, number: int) -> float:
        """Seconds since a worker was heard last; 0 where it never was."""
        return self._quiet.get(number, 0.0)

    def last_words(self, number: int) -> str:
        """What a worker said of its own crash; empty where it was killed, or left by itself."""
        self.look()
        return self._last.get(number, "")

    def forget(self, number: int) -> None:
        """A worker is no more."""
        self._quiet.pop(number, None)
        self._last.pop(number, None)
        self._from = {sender: n for sender, n in self._from.items() if n != number}

    def close(self) -> None:
        """Listen no longer."""
        self._socket.close()
