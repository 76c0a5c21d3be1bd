"""Sealed lines: each has its number, and a checksum that covers it and the line before.

A line is `{"line":12,"event":...,"check":"<32 hexadecimal digits>"}`, and its checksum is the
start of the SHA-256 of the checksum before it and of the line up to its own. So a line that was
changed, moved, left out or put in does not fit, wherever it stands. It finds damage; whoever wants
to deceive can make the checksums again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Event = dict[str, Any]

_DIGITS = 32
_END = re.compile(rb',"check":"([0-9a-f]{%d})"\}' % _DIGITS)
_OWN = ("line", "check")
"""Keys of a line that are no part of its event."""


class DamagedLineError(ValueError):
    """A line is not as it was written; the message says in what."""


@dataclass(frozen=True, kw_only=True)
class Seal:
    """What stands before a line.

    Args:
        lines: how many there are.
        check: the checksum of them all; None where the last one's cannot be read.
    """

    lines: int = 0
    check: str | None = ""

    def close(self, event: Mapping[str, Any]) -> tuple[bytes, Seal]:
        """An event as the next line, and what stands before the one after it.

        Raises:
            ValueError: it holds what JSON does not, such as an infinite number.
        """
        numbered = {"line": self.lines + 1, **event}
        body = json.dumps(numbered, separators=(",", ":"), allow_nan=False)[:-1].encode()
        check = self._checksum(body)
        return body + f',"check":"{check}"}}'.encode(), Seal(lines=self.lines + 1, check=check)

    def open(self, line: bytes) -> tuple[Event, Seal]:
        """The event of the next line, and what stands before the one after it.

        Raises:
            DamagedLineError: it is not what was written there.
        """
        end = _END.search(line, max(0, len(line) - _DIGITS - 12))
        if end is None or end.end() != len(line):
            raise DamagedLineError("it has no checksum")
        body, check = line[: end.start()], end[1].decode()
        if self.check is None:
            raise DamagedLineError("the checksum before it is gone")
        if self._checksum(body) != check:
            raise DamagedLineError("its checksum is that of another line, or of others before it")
        event = as_event(line)
        if event.get("line") != self.lines + 1:
            raise DamagedLineError(f"its number is {event.get('line')!r}")
        plain = {name: value for name, value in event.items() if name not in _OWN}
        return plain, Seal(lines=self.lines + 1, check=check)

    def covering(self, line: bytes) -> Seal:
        """What stands before the line after this one, which has no checksum of its own."""
        return Seal(lines=self.lines + 1, check=self._checksum(line))

    def after(self, line: bytes) -> Seal:
        """What stands before the line after a damaged one, by what that says of itself."""
        end = _END.search(line, max(0, len(line) - _DIGITS - 12))
        number = re.match(rb'\{"line":([1-9][0-9]{0,9}),', line)
        return Seal(
            lines=self.lines + 1 if number is None else int(number[1]),
            check=None if end is None else end[1].decode(),
        )

    def starts(self, text: bytes) -> bool:
        """Whether a text begins with the whole next line, and goes on after it."""
        return any(
            end.end() < len(text) and self.check is not None and self.fits(text[: end.end()])
            for end in _END.finditer(text)
        )

    def fits(self, line: bytes) -> bool:
        """Whether it is the next line, and whole."""
        try:
            self.open(line)
        except DamagedLineError:
            return False
        return True

    def _checksum(self, body: bytes) -> str:
        return hashlib.sha256((self.check or "").encode() + body).hexdigest()[:_DIGITS]


def is_sealed(line: bytes) -> bool:
    """Whether a line ends with a checksum, be it right or wrong."""
    end = _END.search(line, max(0, len(line) - _DIGITS - 12))
    return end is not None and end.end() == len(line)


def as_event(line: bytes) -> Event:
    """A line of JSON as an event. Raises DamagedLineError where it is none."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        raise DamagedLineError("it is no JSON") from None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise DamagedLineError("it is no event")
    return event
