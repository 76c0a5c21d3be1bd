"""The one exception that means misuse: a rule, the value that broke it, and the fix."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(ValueError):
    """Misuse by the caller. The command line prints it as one line and exits with 2."""


def unknown(kind: str, name: object, valid: Iterable[object], where: str = "") -> UsageError:
    """An error for a name that does not exist: says the valid names and the nearest one."""
    names = [str(v) for v in valid]
    near = get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    place = f" in {where}" if where else ""
    return UsageError(
        f"unknown {kind} {str(name)!r}{place}.{hint} Valid: {', '.join(names) or 'none'}."
    )
