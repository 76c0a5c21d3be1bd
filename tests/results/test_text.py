"""Text of others in Markdown and in spreadsheets."""

from __future__ import annotations

import pytest

from paretax.results.text import in_markdown, in_spreadsheet


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("width", "width"),
        ("a | b\n| c", r"a \| b \| c"),
        ("[x](javascript:alert(1))", r"\[x\](javascript:alert(1))"),
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("it enters `add`", "it enters `add`"),
        ("\x1b[2J", r"\\x1b\[2J"),
        (0.5, "0.5"),
    ],
)
def test_markdown_shows_it(text: object, shown: str) -> None:
    assert in_markdown(text) == shown


@pytest.mark.parametrize("text", ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_computes_no_text(text: str) -> None:
    assert in_spreadsheet(text) == f"'{text}"


@pytest.mark.parametrize("cell", [-0.5, 3, None, "sgd", "-", "", True])
def test_other_cells_stay(cell: object) -> None:
    assert in_spreadsheet(cell) is cell
