"""New candidates from a sampler: none twice, and where asked, few signatures among them."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import numpy as np

from paretax.search.planning import Plan
from paretax.search.sharing import Debts, Proposal, owed, share
from paretax.spaces import Candidate

_ASKS = 20  # times that a sampler is asked for a batch before new candidates are drawn at random
_MORE = (
    64  # asked for on top where a sampler proposes what it was not told of yet, and nothing else
)
_DRAWS = 1000  # random draws before a space counts as exhausted


def propose(plan: Plan, state: Any, count: int, tried: Sequence[Proposal]) -> list[Proposal]:
    """New candidates; ones that were tried before are not tried again.

    Randomness comes from the run's seed and the number of trials so far, so that a resumed search
    goes on as it would have.

    Args:
        plan: of the search.
        state: of its sampler.
        count: how many are wanted.
        tried: all trials so far, each with what the sampler had proposed.

    Returns:
        At most `count`; fewer only where the space or the sampler holds no more.
    """
    rng = np.random.default_rng([plan.config.seed, len(tried)])
    taken = frozenset(p.candidate for p in tried)
    debts = owed(plan.space, tried)
    wanted: dict[Candidate, None] = {}
    more = 0
    for _ in range(_ASKS):
        asked, before = count - len(wanted) + more, len(wanted)
        proposed = plan.sampler.ask(state, asked, rng)
        fresh = [c for c in dict.fromkeys(proposed) if c not in taken and c not in wanted]
        wanted |= dict.fromkeys(fresh[: count - before])
        found = _shared(plan, list(wanted), debts, taken, rng)
        if len(found) == count or len(proposed) < asked:  # or a sampler that has come to its end
            return found
        wanted = dict.fromkeys(p.wanted for p in found)
        more = _MORE if len(found) <= before else 0
    for _ in range(_DRAWS):
        candidate = plan.space.sample(rng)
        if candidate in taken or candidate in wanted:
            continue
        found = _shared(plan, [*wanted, candidate], debts, taken, rng)
        wanted = dict.fromkeys(p.wanted for p in found)
        if len(found) == count:
            break
    return found


def _shared(
    plan: Plan,
    wanted: Sequence[Candidate],
    debts: Debts,
    taken: Set[Candidate],
    rng: np.random.Generator,
) -> list[Proposal]:
    """Proposals as they are; where asked, with few signatures."""
    if plan.config.signatures is None:
        return [Proposal(candidate=c, wanted=c) for c in wanted]
    return share(plan.space, wanted, plan.config.signatures, debts, taken, rng)
