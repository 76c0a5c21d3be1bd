"""How a command ends that could not do its work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from paretax.cli.saying import say


@contextmanager
def failing_on(*kinds: type[Exception]) -> Iterator[None]:
    """Turn these exceptions into one line on standard error and exit 1."""
    try:
        yield
    except kinds as error:
        say(f"failed: {' '.join(str(error).split())}", error=True)
        sys.exit(1)
