"""What a command prints."""

from __future__ import annotations

import sys

from paretax.errors import printable


def say(text: str, *, error: bool = False, flush: bool = False) -> None:
    """Print a text, in which names and messages of others may stand.

    Args:
        text: of one or several lines; control characters in it are shown, not obeyed.
        error: whether it goes to standard error.
        flush: whether it must be seen at once.
    """
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=flush)
