"""The bounded store of compiled programs."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis.strategies as st
import pytest
from hypothesis import given

from paretax.evaluators.cache import LeastRecentlyUsed


def refuse() -> str:
    raise AssertionError("it is made again")


def test_what_is_kept_is_not_made_again() -> None:
    cache: LeastRecentlyUsed[str] = LeastRecentlyUsed(2)
    assert cache.get("a", lambda: "one") == "one"
    assert cache.get("a", refuse) == "one"


def test_what_was_used_longest_ago_goes_first() -> None:
    cache: LeastRecentlyUsed[str] = LeastRecentlyUsed(2)
    cache.get("a", lambda: "a")
    cache.get("b", lambda: "b")
    cache.get("a", refuse)
    cache.get("c", lambda: "c")  # b goes
    assert cache.get("a", refuse) == "a"
    assert cache.get("b", lambda: "b again") == "b again"  # c goes
    assert cache.get("c", lambda: "c again") == "c again"


def test_a_failed_making_leaves_nothing_behind() -> None:
    cache: LeastRecentlyUsed[str] = LeastRecentlyUsed(1)
    cache.get("a", lambda: "a")
    with pytest.raises(AssertionError, match="made again"):
        cache.get("b", refuse)
    assert cache.get("a", refuse) == "a"
    assert cache.get("b", lambda: "b") == "b"


@given(st.integers(1, 4), st.lists(st.integers(0, 6)))
def test_it_keeps_what_a_naive_list_keeps(size: int, keys: list[int]) -> None:
    cache: LeastRecentlyUsed[int] = LeastRecentlyUsed(size)
    naive: list[int] = []
    made: list[int] = []

    def make(key: int) -> Callable[[], int]:
        def run() -> int:
            made.append(key)
            return key

        return run

    expected = []
    for key in keys:
        if key in naive:
            naive.remove(key)
        else:
            expected.append(key)
        naive = [*naive, key][-size:]
        assert cache.get(key, make(key)) == key
    assert made == expected
