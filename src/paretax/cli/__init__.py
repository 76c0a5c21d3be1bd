"""The command line: exit 0 on success, 1 on failure, 2 on misuse, 130 when interrupted."""

from __future__ import annotations

import os
import sys

import typer

from paretax.cli import profiling, reading, scoring, searching
from paretax.cli.failing import refused_by_the_system
from paretax.cli.saying import say
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
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again
        raise


def main() -> None:
    """Run the command line on this process's arguments."""
    try:
        try:
            app()
        finally:
            _write_what_is_left()
    except UsageError as error:
        say(f"error: {' '.join(str(error).split())}", error=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)  # whoever read has enough, such as `head`, and wants no word of it
    except OSError as error:
        say(f"failed: {refused_by_the_system(error)}", error=True)
        sys.exit(1)


__all__ = ["app", "main"]
