"""Plain text tables: columns to the right, two spaces between them."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 120
"""Characters across, beyond which a table is better cut in two."""


def plain_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal.

    Args:
        headers: of the columns, of one or several lines each.
        rows: cells, one for each column.
    """
    heads = [h.split("\n") for h in headers]
    tall = max(map(len, heads))
    lines = [[h[i] if i < len(h) else "" for h in heads] for i in range(tall)]
    widths = [max(map(len, column)) for column in zip(*lines, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in (*lines, rule, *rows)
    )


def width_of(table: str) -> int:
    """Characters of the longest line."""
    return max(map(len, table.splitlines()))
