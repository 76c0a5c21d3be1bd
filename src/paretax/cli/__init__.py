"""The command line: exit 0 on success, 1 on failure, 2 on misuse, 130 when interrupted."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import typer

from paretax.cli import profiling, reading, scoring, searching
from paretax.cli.failing import refused_by_the_system
from paretax.cli.saying import output, say
from paretax.errors import UsageError

app = typer.Typer(
    help="Search efficient JAX/Flax models jointly, scored on the hardware they will run on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(searching.search)
app.command()(searching.space)
app.command()(reading.leaderboard)
app.command()(reading.report)
app.command()(reading.export)
app.command()(reading.verify)
app.command()(reading.check)
app.command()(reading.reproduce)
app.command()(scoring.score)
app.add_typer(profiling.profiles, name="profiles")


def _write_what_is_left() -> None:
    """Empty the buffer of standard output here, where it can still be said that it does not go."""
    if (out := output()) is None:  # a task's code has closed it
        return
    try:
        out.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # Python flushes again
        raise


def _run() -> int:
    """Run the command line on this process's arguments, and say with which code it ends."""
    try:
        try:
            app()
        finally:
            _write_what_is_left()
    except UsageError as error:
        say(f"error: {' '.join(str(error).split())}", error=True)
        return 2
    except BrokenPipeError:
        return 1  # whoever read has enough, such as `head`, and wants no word of it
    except OSError as error:
        say(f"failed: {refused_by_the_system(error)}", error=True)
        return 1
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0


def main() -> None:
    """Run the command line on this process's arguments, and raise SystemExit with its code."""
    sys.exit(_run())


def program() -> None:
    """The command `paretax`, whose process is its own: as `main`, and the process ends at once."""
    code = _run()
    if "ray" in sys.modules:
        # Everything is written, and Ray was told to end. Where a part of it has died, its C++ would
        # wait for that part for many seconds while Python takes itself apart.
        with suppress(OSError):
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


__all__ = ["app", "main", "program"]
