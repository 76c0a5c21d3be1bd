"""New candidates from a sampler: none twice, and where asked, few signatures among them.

A sampler that breeds can only combine what its first batch holds, and a value that is missing there
comes back by luck alone. So the first batch may have four times as many signatures as each other.
"""

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
_FIRST = 4  # times as many signatures for the first batch


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
        At most `count`; fewer only where the space or the sampler holds no more, or no more of as
        many signatures; none only where all has been tried that they hold.
    """
    rng = np.random.default_rng([plan.config.seed, len(tried)])
    taken = frozenset(p.candidate for p in tried)
    debts = owed(tried)
    most = bound(plan.config.signatures, len(tried))
    wanted: dict[Candidate, None] = {}
    more = 0
    for _ in range(_ASKS):
        asked, before = count - len(wanted) + more, len(wanted)
        proposed = plan.sampler.ask(state, asked, rng)
        fresh = [c for c in dict.fromkeys(proposed) if c not in taken and c not in wanted]
        wanted |= dict.fromkeys(fresh[: count - before])
        found = _shared(plan, list(wanted), most, debts, taken, rng)
        if len(found) == count or len(proposed) < asked:  # or a sampler that has come to its end
            return found
        wanted = dict.fromkeys(p.wanted for p in found)
        more = _MORE if len(found) <= before else 0
    for _ in range(_DRAWS):
        candidate = plan.space.sample(rng)
        if candidate in taken or candidate in wanted:
            continue
        found = _shared(plan, [*wanted, candidate], most, debts, taken, rng)
        wanted = dict.fromkeys(p.wanted for p in found)
        if len(found) == count:
            break
    return found


def bound(signatures: int | None, tried: int) -> int | None:
    """How many signatures a batch may have; None: as many as it likes.

    Args:
        signatures: of the config.
        tried: trials before this batch; before the first one, the baseline at most.
    """
    if signatures is None:
        return None
    return signatures * (_FIRST if tried <= 1 else 1)


def _shared(
    plan: Plan,
    wanted: Sequence[Candidate],
    most: int | None,
    debts: Debts,
    taken: Set[Candidate],
    rng: np.random.Generator,
) -> list[Proposal]:
    """Proposals as they are; where asked, with few signatures."""
    if most is None:
        return [Proposal(candidate=c, wanted=c) for c in wanted]
    return share(plan.space, wanted, most, debts, taken, rng)
