"""Names, choices and messages of others, where a reader of the text would act on what they say."""

from __future__ import annotations

import re
from typing import Any

from paretax.errors import printable

_MARKS = re.compile(r"([\\\[\]|])")
_FORMULA = "=+-@\t\r"


def in_markdown(text: object) -> str:
    """A text as one line of Markdown that shows it: no cell ends in it, no link, no element."""
    line = " ".join(printable(str(text)).split())
    return _MARKS.sub(r"\\\1", line).replace("<", "&lt;")


def in_spreadsheet(cell: Any) -> Any:
    """A cell of a csv file; one of text that a spreadsheet would compute begins with `'`."""
    computed = isinstance(cell, str) and len(cell) > 1 and cell[0] in _FORMULA
    return f"'{cell}" if computed else cell
