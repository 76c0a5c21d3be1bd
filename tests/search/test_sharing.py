"""Few signatures in a batch, and no choice that starves for it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from paretax.results import Run
from paretax.search import Observation, make_sampler, parse_config, plan, run_search
from paretax.search.proposing import propose
from paretax.search.sharing import Proposal, owed, share
from paretax.spaces import BY_NAME, Candidate, Categorical, Float, Ordinal, Space, signature

SPACE = Space(
    [
        Ordinal("width", [16, 32, 64, 128]),
        Categorical("optimizer", ["adamw", "sgd", "lion"]),
        Categorical("pruning", ["one_shot", "gradual"]),
        Float("channel_sparsity", 0.0, 0.5, step=0.25),
        Categorical("quantize", [False, True]),
        Categorical("qat", ["none", "ste", "lsq"], when={"quantize": True}),
        Categorical("lookalikes", [1, True, "1"]),
        Float("learning_rate", 1e-3, 1e-2, log=True),
    ],
    [{"optimizer": "sgd", "width": 128}],
)


def signature_of(candidate: Candidate) -> str:
    return signature(candidate, BY_NAME)


def losses(candidate: Candidate) -> tuple[float, float]:
    """A made-up trade-off, in which every choice matters a little."""
    values: dict[str, Any] = dict(candidate)
    error = 0.35 / (1 + values["width"] / 16) + 0.15 * values["channel_sparsity"]
    error += 0.1 * (values["optimizer"] == "sgd") + 0.02 * (values["pruning"] == "gradual")
    error += {"none": 0.03, "ste": 0.02, "lsq": 0.015}.get(values.get("qat", ""), 0.0)
    error += 0.1 * (math.log10(values["learning_rate"]) + 2.4) ** 2
    size = values["width"] * (1 - values["channel_sparsity"])
    return error, math.log(size * (0.25 if values["quantize"] else 1.0))


def searched(sampler: str, seed: int, signatures: int | None, trials: int = 64) -> list[Proposal]:
    """A search of made-up figures, eight candidates at a time."""
    options = {"population": 8} if sampler == "nsga2" else {}
    made = make_sampler(sampler, options)
    config = SimpleNamespace(seed=seed, signatures=signatures)
    planned: Any = SimpleNamespace(config=config, space=SPACE, sampler=made)
    state, tried = made.init(SPACE), list[Proposal]()
    while len(tried) < trials:
        found = propose(planned, state, 8, tried)
        assert len(found) == 8
        if signatures is not None:
            most = signatures if tried else 4 * signatures
            assert len({signature_of(p.candidate) for p in found}) <= most
        tried += found
        told = [Observation(candidate=p.candidate, losses=losses(p.candidate)) for p in found]
        state = made.tell(state, told)
    return tried


def counts(candidates: list[Candidate]) -> Counter[str]:
    """How many candidates have each value of each choice."""
    return Counter(
        f"{name}={value!r}"
        for c in candidates
        for name, value in c.items()
        if name != "learning_rate"
    )


@pytest.mark.parametrize("sampler", ["random", "nsga2"])
def test_every_value_keeps_its_share_of_what_was_proposed(sampler: str) -> None:
    for seed in range(5):
        tried = searched(sampler, seed, 4)
        assert len({p.candidate for p in tried}) == len(tried)
        for p in tried:
            assert SPACE.candidate(dict(p.candidate)) == p.candidate
        wanted, had = (counts([getattr(p, s) for p in tried]) for s in ("wanted", "candidate"))
        for value, count in wanted.items():
            if count >= 8:  # on average once a batch
                assert abs(had[value] - count) <= max(4, count / 4), (seed, value, count)
                assert had[value] > 0


def test_over_seeds_no_value_is_rarer_than_without() -> None:
    for sampler in ("random", "nsga2"):
        shares: dict[int | None, Counter[str]] = {}
        for most in (None, 4):
            runs = [searched(sampler, seed, most) for seed in range(10)]
            shares[most] = counts([p.candidate for run in runs for p in run])
        for value, count in shares[None].items():
            assert shares[4][value] > 0.6 * count, (sampler, value, count, shares[4][value])


def test_what_is_owed_decides_the_signatures() -> None:
    rng = np.random.default_rng(0)
    space = Space([Categorical("c", list("abcd")), Float("learning_rate", 0.0, 1.0)])
    wanted = [Candidate({"c": c, "learning_rate": 0.1 * i + 0.1}) for i, c in enumerate("aaaabbbc")]
    debts: Counter[str] = Counter()
    had: Counter[Any] = Counter()
    for _ in range(8):
        found = share(space, wanted, 1, debts, (), rng)
        assert len(found) == 8
        (one,) = {p.candidate["c"] for p in found}
        had[one] += 1
        debts += Counter()
        for key, count in owed(found).items():
            debts[key] += count
        assert [p.candidate["learning_rate"] for p in found] == [w["learning_rate"] for w in wanted]
    assert had == {"a": 4, "b": 3, "c": 1}  # of eight batches, as of eight proposals


def test_few_enough_signatures_are_left_alone() -> None:
    rng = np.random.default_rng(0)
    wanted = [SPACE.sample(rng) for _ in range(4)]
    found = share(SPACE, wanted, 4, {}, (), rng)
    assert found == [Proposal(candidate=c, wanted=c) for c in wanted]


CONFIG: dict[str, Any] = {
    "task": "breast_cancer",
    "objectives": ["accuracy", "size"],
    "space": {
        "width": {"type": "ordinal", "choices": [2, 4, 8]},
        "optimizer": {"type": "categorical", "choices": ["adamw", "sgd"]},
        "learning_rate": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True},
        "epochs": 2,
    },
    "budget": {"trials": 12},
    "sampler": {"name": "nsga2", "options": {"population": 4}},
    "signatures": 1,
    "executor": "inline",
}


def test_a_search_that_is_resumed_shares_as_if_undisturbed(tmp_path: Path) -> None:
    whole = run_search(plan(parse_config(CONFIG, "config")), tmp_path / "whole")
    short = parse_config({**CONFIG, "budget": {"trials": 8}}, "config")
    run_search(plan(short), tmp_path / "parts")
    parts = run_search(plan(parse_config(CONFIG, "config")), tmp_path / "parts", resume=True)
    assert any(t.wanted is not None for t in whole.trials)

    def proposed(run: Run) -> list[Any]:
        return [(t.candidate, t.wanted) for t in run.trials]

    assert proposed(parts) == proposed(whole)
