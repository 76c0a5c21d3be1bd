"""Random models of pairs of functions: scored, exported and naive outputs agree."""

from __future__ import annotations

import pytest
from tests.agreement.checking import FIRSTS, check


@pytest.mark.parametrize("first", FIRSTS)
def test_scored_exported_and_naive_agree(first: int) -> None:
    check("pair", first)
