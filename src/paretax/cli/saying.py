"""What a command prints."""

from __future__ import annotations

import sys
from typing import TextIO

from paretax.errors import printable


def say(text: str, *, error: bool = False, flush: bool = False) -> None:
    """Print a text, in which names and messages of others may stand.

    Args:
        text: of one or several lines; control characters in it are shown, not obeyed.
        error: whether it goes to standard error.
        flush: whether it must be seen at once.
    """
    if (out := output(error=error)) is not None:
        print(printable(text), file=out, flush=flush)


def output(*, error: bool = False) -> TextIO | None:
    """Where it goes; None where code of a task has closed that."""
    found = (sys.stderr, sys.__stderr__) if error else (sys.stdout, sys.__stdout__)
    return next((each for each in found if each is not None and not each.closed), None)
