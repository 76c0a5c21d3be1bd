"""Which worker does what: programs are compiled by as few workers as keep all of them busy."""

from __future__ import annotations

import pytest

from paretax.search.executors.dealing import MOST, Dealer
from paretax.search.executors.protocol import Call
from paretax.spaces import Candidate


def calls(signature: str, count: int, first: int = 0) -> list[Call]:
    return [
        Call(kind="train", trial=first + i, candidate=Candidate({}), seed=0, signature=signature)
        for i in range(count)
    ]


def signatures(dealt: list[Call]) -> set[str]:
    return {call.signature for call in dealt}


def drain(dealer: Dealer, workers: int) -> list[list[str]]:
    """The signatures of what each worker is dealt in turn, until nothing is left."""
    found: list[list[str]] = [[] for _ in range(workers)]
    while len(dealer):
        for worker in range(workers):
            dealt = dealer.deal(worker)
            assert len(signatures(dealt)) <= 1
            found[worker] += [call.signature for call in dealt]
    return found


def test_every_call_is_dealt_once_and_in_order() -> None:
    dealer = Dealer(3)
    asked = calls("a", 20) + calls("b", 5, 20) + calls("c", 1, 25)
    dealer.add(asked)
    seen: list[int] = []
    while len(dealer):
        for worker in range(3):
            seen += [call.trial for call in dealer.deal(worker)]
    assert sorted(seen) == list(range(26))
    assert [t for t in seen if t < 20] == list(range(20))
    assert dealer.deal(0) == []


def test_a_worker_stays_with_what_it_has_compiled() -> None:
    dealer = Dealer(2)
    dealer.add(calls("a", 40) + calls("b", 40, 40))
    first, second = drain(dealer, 2)
    assert first.count("a") > 35
    assert second.count("b") > 35
    dealer = Dealer(2)
    dealer.add(calls("a", 1) + calls("b", 1, 1))
    drain(dealer, 2)
    dealer.add(calls("b", 4) + calls("a", 4, 4))  # the next batch, in another order
    assert signatures(dealer.deal(0)) == {"a"}
    assert signatures(dealer.deal(1)) == {"b"}


def test_a_worker_without_work_helps() -> None:
    dealer = Dealer(2)
    dealer.add(calls("a", 40))
    first, second = drain(dealer, 2)
    assert set(first) == set(second) == {"a"}
    assert min(len(first), len(second)) >= 10


def test_what_nobody_has_comes_before_helping() -> None:
    dealer = Dealer(2)
    dealer.add(calls("a", 40))
    assert signatures(dealer.deal(0)) == {"a"}
    dealer.add(calls("b", 2, 40))
    assert signatures(dealer.deal(1)) == {"b"}


def test_calls_are_dealt_in_few_and_at_the_end_one_by_one() -> None:
    dealer = Dealer(2)
    dealer.add(calls("a", 200))
    sizes = []
    while len(dealer):
        sizes.append(len(dealer.deal(0)))
    assert max(sizes) == MOST
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1


@pytest.mark.parametrize("workers", [1, 4])
def test_a_call_under_suspicion_is_alone_and_first(workers: int) -> None:
    dealer = Dealer(workers)
    dealer.add(calls("a", 9))
    (odd,) = calls("a", 1, 9)
    dealer.add_single(odd)
    assert len(dealer) == 10
    assert dealer.deal(0) == [odd]


def test_a_new_worker_has_compiled_nothing() -> None:
    dealer = Dealer(2)
    dealer.add(calls("a", 1) + calls("b", 1, 1))
    assert signatures(dealer.deal(0)) == {"a"}
    dealer.forget(0)
    dealer.add(calls("c", 3, 2) + calls("a", 1, 5))
    assert signatures(dealer.deal(0)) == {"c"}  # of "a" and "b" it has neither any more


def test_populations_are_dealt_whole_but_for_a_fair_share() -> None:
    dealer = Dealer(1, most=256)
    dealer.add(calls("a", 200))
    assert len(dealer.deal(0)) == 100


def climbing(trial: int, signature: str = "a") -> Call:
    call = calls(signature, 1, trial)[0]
    return Call(kind="advance", trial=trial, candidate=call.candidate, seed=0, signature=signature)


def test_a_training_goes_on_where_it_is() -> None:
    dealer = Dealer(2)
    dealer.add([climbing(0), climbing(1, "b")])
    assert [c.trial for c in dealer.deal(0)] == [0]
    assert [c.trial for c in dealer.deal(1)] == [1]
    dealer.add([climbing(1, "b"), climbing(0)])
    assert [c.trial for c in dealer.deal(0)] == [0]
    assert dealer.deal(0) == []  # the other's is not taken over
    assert [c.trial for c in dealer.deal(1)] == [1]


def test_a_training_whose_worker_died_goes_on_anywhere() -> None:
    dealer = Dealer(2)
    dealer.add([climbing(0)])
    dealer.deal(0)
    dealer.add([climbing(0)])
    assert dealer.deal(1) == []
    dealer.forget(0)
    assert [c.trial for c in dealer.deal(1)] == [0]
