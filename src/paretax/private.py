"""Folders of one user alone: what is in them is believed, and compiled programs in them run."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from paretax.errors import UsageError

_MINE = 0o700


def private_folder(base: Path, *parts: str, variable: str, chosen: bool) -> Path:
    """A folder that nobody else can read or write; made where it is missing.

    Where it cannot be made it is not there afterwards, as if nothing had been kept yet.

    Args:
        base: that holds it.
        parts: names below it, one within the other.
        variable: of the environment, by which the user names another base.
        chosen: whether the user named this base; its own mode then stays as it is.

    Raises:
        UsageError: one of them belongs to somebody else.
    """
    folder = base
    for path in (*reversed(base.parents), base):
        with suppress(OSError):  # most of them are there
            path.mkdir(mode=_MINE)
    check_owner(base, variable)
    if not chosen:
        _close(base)
    for part in parts:
        folder = folder / part
        with suppress(OSError):
            folder.mkdir(mode=_MINE)
        check_owner(folder, variable)
        _close(folder)
    return folder


def check_owner(folder: Path, variable: str) -> None:
    """Refuse a folder that is there and belongs to somebody else.

    Args:
        folder: maybe there.
        variable: of the environment, by which the user names another one.

    Raises:
        UsageError: names the folder, and the remedy.
    """
    try:
        owner = folder.stat().st_uid
    except OSError:
        return
    if owner != os.geteuid():
        raise UsageError(
            f"{str(folder)!r} belongs to user {owner}, and this process is of user "
            f"{os.geteuid()}: what is kept there would be believed; set {variable} to a folder of "
            "your own"
        )


def _close(folder: Path) -> None:
    """Take from others what they may do with a folder of one's own."""
    with suppress(OSError):
        if folder.stat().st_mode & 0o077:
            folder.chmod(_MINE)
