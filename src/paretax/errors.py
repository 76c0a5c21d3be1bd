"""The one exception that means misuse: a rule, the value that broke it, and the fix."""

from __future__ import annotations

import sysconfig
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import FrameType

_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_LONGEST = 200  # characters of a value or a message that is quoted


class UsageError(ValueError):
    """Misuse by the caller. The command line prints it as one line and exits with 2."""


def unknown(kind: str, name: object, valid: Iterable[object], where: str = "") -> UsageError:
    """An error for a name that does not exist: says the valid names and the nearest one."""
    names = [str(v) for v in valid]
    near = get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    place = f" in {where}" if where else ""
    return UsageError(
        f"unknown {kind} {shown(name, str)}{place}.{hint} Valid: {', '.join(names) or 'none'}."
    )


def shown(value: object, kind: type[str] | None = None) -> str:
    """A value as an error quotes it: its `repr`, cut where it is long.

    Args:
        value: anything.
        kind: `str` where the value counts as the text that it prints as.
    """
    try:
        return shortened(repr(value if kind is None else kind(value)))
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return f"a value of type {type(value).__name__} that is too long to show"


def shortened(text: str) -> str:
    """A text, cut where it is long."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


def printable(text: str) -> str:
    """A text for a terminal, which obeys no codes that stand in it: `\\x1b[2J` is shown as such.

    Lines and tabs stay; every other control character is written as Python escapes it.
    """
    return "".join(c if c in "\n\t" or not _is_code(c) else ascii(c)[1:-1] for c in text)


def _is_code(character: str) -> bool:
    """Whether a terminal acts on a character, or turns the direction of what follows it."""
    return unicodedata.category(character) in ("Cc", "Cs") or character in _TURNS


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Turn whatever the user's own code raises into a UsageError that says where it did.

    Args:
        what: that fails, for the message.
    """
    try:
        yield
    except UsageError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UsageError(f"{what} fails: {described(error)}") from error


def described(error: BaseException) -> str:
    """An exception in one line: its kind, its first line, and the line of the user's code."""
    lines = str(error).strip().splitlines() or [""]
    text = shortened(f"{type(error).__name__}: {lines[0]}")
    place = _place(error)
    return f"{text} ({place})" if place else text


def _place(error: BaseException) -> str:
    """The innermost line of the user's files that an exception went through, or else of any."""
    place = own = ""
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        place = f"{Path(file).name}:{trace.tb_lineno}"
        own = place if _is_users(trace.tb_frame) else own
        trace = trace.tb_next
    return own or place


def _is_users(frame: FrameType) -> bool:
    """Whether code is neither paretax's, nor Python's, nor of an installed package."""
    file, module = frame.f_code.co_filename, str(frame.f_globals.get("__name__", ""))
    libraries = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<frozen")
    ours = module.partition(".")[0] == "paretax"
    return not ours and not file.startswith(libraries) and "site-packages" not in file
